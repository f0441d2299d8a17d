"""Sessions: who is connected, ending one, playing what was recorded."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from gateway.audit.recording import BrokenRecordingError, Frame, MalformedRecordingError, unpacked, verified
from gateway.audit.recording_json import Announced, frame_from_json, from_json_lines, lines_of
from gateway.audit.sealed_digests import DigestsInLog, Sealed
from gateway.edges.cli import client, held, output, playback
from gateway.edges.cli.audit import read_verified
from gateway.edges.cli.output import moment, safe, say

LARGEST = 4 * 1024 * 1024 * 1024  # bytes of a recording as JSON lines
_IN_MEMORY = 8 * 1024 * 1024
_SILENCE_S = 60.0
LONGEST_TEXT = 1000  # characters of a statement
_IN_A_TABLE = 60


@click.command()
@click.option("--all", "everybody", is_flag=True, help="Everybody's, if you may see the log.")
@click.option("--live/--ended", default=None, help="Only those that run, or only those that are over.")
@output.json_option
def sessions(everybody: bool, live: bool | None, as_json: bool) -> None:
    """List sessions, newest first."""
    found = client.api().get("/api/sessions", all=everybody, live=live)
    if as_json:
        output.print_json(found)
        return
    rows = [
        (
            s["id"], s["target"], s["level"], s["holder"], moment(s["started_at"]), moment(s["active_at"]), _ended(s),
            _running(s, _IN_A_TABLE),
        )
        for s in found
    ]  # fmt: skip
    heads = ("session", "target", "level", "who", "started", "last activity", "ended", "runs")
    output.table(heads, rows, empty="No sessions.")


@click.group()
def session() -> None:
    """Replay, watch, lock, end or shred one session, cancel its statement, or let it commit."""


session.add_command(held.commit)


@session.command()
@click.argument("session_id")
@output.json_option
def show(session_id: str, as_json: bool) -> None:
    """What is known about a session, without its recording."""
    found = client.api().get(f"/api/sessions/{client.segment(session_id)}")
    if as_json:
        output.print_json(found)
        return
    for label, value in (
        ("session", found["id"]),
        ("target", f"{found['target']}, level {found['level']} ({found['protocol']})"),
        ("who", f"{found['holder']} from {found['client']}, under grant {found['grant']}"),
        ("started", moment(found["started_at"])),
        ("active", moment(found["active_at"])),
        ("ended", _ended(found)),
        ("runs", _running(found, LONGEST_TEXT) or "nothing that takes a while"),
        ("recording", found["recording_digest"] or "still growing"),
    ):
        say(f"{label:>10}  {safe(value)}")


@session.command()
@click.argument("session_id")
@click.option("--reason", default="", help="For the log.")
@output.json_option
def kill(session_id: str, reason: str, as_json: bool) -> None:
    """End a session within a second. Its grant stays as it is; gw revoke ends that."""
    ended = client.api().post(f"/api/sessions/{client.segment(session_id)}/kill", {"reason": reason})
    if as_json:
        output.print_json(ended)
    else:
        say(f"Session {safe(session_id)} is being ended.")


@session.command()
@click.argument("session_id")
@click.option("--statement", default=0, type=click.IntRange(0), help="Its number: no other is hit. Default: what runs.")
@click.option("--reason", default="", help="For the log.")
@output.json_option
def cancel(session_id: str, statement: int, reason: str, as_json: bool) -> None:
    """Cancel the statement that a database session runs, within a second. The session goes on."""
    path = f"/api/sessions/{client.segment(session_id)}/cancel"
    asked = client.api().post(path, {"reason": reason, "statement": statement})
    if as_json:
        output.print_json(asked)
    else:
        say(f"What session {safe(session_id)} runs is being cancelled.")


@session.command()
@click.argument("session_id")
@click.option("--reason", default="", help="For the log.")
@output.json_option
def lock(session_id: str, reason: str, as_json: bool) -> None:
    """Hold back what the person types in an SSH session; they are told, and the output goes on."""
    _change_lock(session_id, "lock", reason, as_json)


@session.command()
@click.argument("session_id")
@click.option("--reason", default="", help="For the log.")
@output.json_option
def unlock(session_id: str, reason: str, as_json: bool) -> None:
    """Let the person type again."""
    _change_lock(session_id, "unlock", reason, as_json)


def _change_lock(session_id: str, verb: str, reason: str, as_json: bool) -> None:
    changed = client.api().post(f"/api/sessions/{client.segment(session_id)}/{verb}", {"reason": reason})
    if as_json:
        output.print_json(changed)
    else:
        say(f"Session {safe(session_id)} is {verb}ed.")


@session.command()
@click.argument("session_id")
@click.option("--reason", required=True, help="For the log: it is all that will be left.")
@output.json_option
def shred(session_id: str, reason: str, as_json: bool) -> None:
    """Destroy the recording of a session that is over, for good: its key, and its statements in the index."""
    done = client.api().post(f"/api/sessions/{client.segment(session_id)}/shred", {"reason": reason}, read_s=_SILENCE_S)
    if as_json:
        output.print_json(done)
    else:
        say(f"The recording of {safe(session_id)} is destroyed. The order: gw audit receipt {safe(done['order'])}")


@session.command()
@click.argument("session_id")
@click.option("--speed", type=click.FloatRange(0.1, 100), default=1.0, show_default=True, help="Times as fast.")
@click.option("--export", type=click.Path(dir_okay=False), help="Write an asciicast file, for any player.")
@click.option("--asciicast", type=click.IntRange(2, 3), default=2, show_default=True, help="Version to export.")
@click.option("--statements", is_flag=True, help="One line per record instead of a picture.")
@click.option("--expect", default="", metavar="COUNT:DIGEST", help="What the recording must be, from the log.")
@click.option(
    "--log",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Your export of the log, to take the digests from rather than from the gateway.",
)
@click.option("--key", envvar="GW_AUDIT_KEY", default="", help="With --log: its verifier key that you pinned.")
@output.json_option
def replay(
    session_id: str, speed: float, export: str | None, asciicast: int, statements: bool, expect: str, log: Path | None,
    key: str, as_json: bool,
) -> None:  # fmt: skip
    """Play a session that is over. That you looked is in the log first; the recording is verified here too."""
    sealed = _sealed_in(log, key, session_id) if log else None
    with _fetched(session_id, sealed) as fetched:
        gaps = _verify(fetched, session_id, expect)
        if as_json:
            _print_records(fetched)
        elif export:
            _export(fetched, export, asciicast)
            _tell_left_out(fetched)
        elif statements or fetched.announced.protocol != "ssh" or not playback.play(fetched.frames(), speed):
            for line in playback.transcript(fetched.frames()):
                say(line)
        else:
            _tell_left_out(fetched)
        if not as_json:
            _tell_verified(fetched, gaps)


@session.command()
@click.argument("session_id")
@output.json_option
def watch(session_id: str, as_json: bool) -> None:
    """Look on while a session runs. That you look is in the log; Ctrl-C stops looking, not the session."""
    lines = client.api().lines(f"/api/sessions/{client.segment(session_id)}/watch", _SILENCE_S)
    frames = _watched(lines)
    if as_json:
        for frame in unpacked(frames):
            output.print_json(playback.as_object(frame))
        return
    for line in playback.transcript(frames):
        say(line)
    say("The session is over.", err=True)


def _running(found: Any, longest: int) -> str:
    told = found.get("running")  # an older gateway does not tell
    if not told:
        return ""
    seconds = max(0, round((datetime.now(UTC) - datetime.fromisoformat(told["since"])).total_seconds()))
    text = " ".join(told["sql"].split())
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return f"[{told['n']}] {seconds} s {told['kind']}: {text}"


def _ended(found: Any) -> str:
    live = f"live, locked by {found['locked_by']}" if found["locked_by"] else "live"
    return f"{moment(found['ended_at'])}, {found['end_reason']}" if found["ended_at"] else live


# ---------------------------------------------------------------- a recording, fetched and verified


@dataclass(frozen=True, slots=True)
class Fetched:
    """A recording in a file that has no name; `frames` verifies it again each time."""

    announced: Announced
    lines: IO[bytes]
    by_log: bool = False  # the digests are of a log that was verified here

    def frames(self) -> Iterator[Frame]:
        """From the beginning."""
        self.lines.seek(0)
        _, frames = from_json_lines(lines_of(self.lines))
        told = self.announced
        return verified(told.session, frames, told.records, told.digest, told.evidence)


def _sealed_in(log: Path, key: str, session_id: str) -> Sealed:
    """What an export says of the recording, once the export has been verified under the pinned key."""
    found = DigestsInLog(session_id)
    read_verified(log, key, found.take)
    if found.shredding is not None:
        said = f"The recording of {session_id} {found.shredding.sentence()} That is what your copy of the log says."
        output.fail(said, output.EXIT_CONFLICT, code="recording-shredded")
    try:
        return found.sealed()
    except BrokenRecordingError as broken:
        output.fail(f"That log does not tell what the recording is: {broken.why}.", code="recording-broken")


@contextmanager
def _fetched(session_id: str, sealed: Sealed | None) -> Iterator[Fetched]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as lines:
        size = 0
        for part in _asked_for(session_id, by_log=sealed is not None):
            size += len(part)
            if size > LARGEST:
                output.fail("The recording is too large for this command.")
            lines.write(part)
        lines.seek(0)
        try:
            announced, _ = from_json_lines(lines_of(lines))
        except MalformedRecordingError as error:
            output.fail(f"The server's answer is no recording: {error}.", code="recording-broken")
        if sealed is not None:
            if sealed[:2] != (announced.records, announced.digest):
                said = f"The gateway has a recording of {announced.records}:{safe(announced.digest)}"
                output.fail(f"{said}, the log one of {sealed.records}:{sealed.digest}.", code="recording-broken")
            announced = announced._replace(**sealed._asdict())
        yield Fetched(announced, lines, sealed is not None)


def _asked_for(session_id: str, *, by_log: bool) -> Iterator[bytes]:
    """The gateway's answer. What it says of a key that is gone is held against the copy of the log, too."""
    try:
        yield from client.api().stream(f"/api/sessions/{client.segment(session_id)}/recording", _SILENCE_S)
    except output.Failure as no:
        if not by_log or no.problem.get("code") not in ("recording-shredded", "recording-locked"):
            raise
        said = f"{no.message} Your copy of the log has no event that says so."
        raise output.Failure(said, no.exit_code, {**no.problem, "detail": said}) from no


def _verify(fetched: Fetched, session_id: str, expect: str) -> int:
    """Before anything of it is shown. The number of gaps, which only a best-effort recording has."""
    announced = fetched.announced
    if announced.session != session_id:
        output.fail("The server sent the recording of another session.", code="recording-broken")
    if expect and expect != f"{announced.records}:{announced.digest}":
        output.fail(
            f"The recording is {announced.records}:{announced.digest}, not what you expected.", code="recording-broken"
        )
    try:
        return sum(frame.kind == "gap" for frame in unpacked(fetched.frames()))
    except BrokenRecordingError as broken:
        output.fail(
            f"The recording is not what was sealed. Record {broken.seq}: {broken.why}.", output.EXIT_ERROR,
            "Nothing is played. Tell the gateway's operators.", code="recording-broken",
        )  # fmt: skip
    except MalformedRecordingError as error:
        output.fail(f"The recording cannot be read to its end: {error}.", code="recording-broken")


def _tell_verified(fetched: Fetched, gaps: int) -> None:
    announced = fetched.announced
    whose = "of your copy of the log" if fetched.by_log else "as the gateway tells it (--log takes it from your copy)"
    said = f"{announced.records} records, verified against {safe(announced.digest)}, {whose}"
    if not announced.complete:
        said += "; the gateway died during this session, and this is what can be proved of it"
    if gaps:
        said += f"; parts were NOT RECORDED, {gaps} time(s): --statements says what is missing where"
    say(said, err=True)


def _tell_left_out(fetched: Fetched) -> None:
    if unseen := playback.left_out(fetched.frames()):
        say(f"NOT IN THIS PICTURE: {unseen}; --statements shows all of the session", err=True)


def _print_records(fetched: Fetched) -> None:
    announced = fetched.announced
    output.print_json(
        {
            "session": announced.session,
            "protocol": announced.protocol,
            "records": [playback.as_object(frame) for frame in unpacked(fetched.frames())],
            "digest": announced.digest,
            "complete": announced.complete,
            "verified": True,
            "verified_by": "log" if fetched.by_log else "gateway",
        }
    )


def _export(fetched: Fetched, path: str, version: int) -> None:
    lines = playback.cast_lines(fetched.frames(), version)
    first = next(lines, None)
    if first is None:
        output.fail("This session has no terminal to export.", output.EXIT_USAGE, "--statements prints what it has.")
    with open(path, "w", encoding="utf-8", opener=playback.opens_privately) as file:
        file.write(first + "\n")
        file.writelines(line + "\n" for line in lines)
    say(f"{safe(path)} plays in asciinema and its web player.")


def _watched(lines: Iterable[str]) -> Iterator[Frame]:
    """The frames in a stream of server-sent events (one `data` line each, comments between)."""
    event = ""
    for line in lines:
        if line == "event: end":
            return
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            try:
                told = json.loads(line[6:])
                if event == "denied":
                    _tell_denied(told)
                yield frame_from_json(told)
            except (ValueError, RecursionError) as error:
                output.fail(f"The server's answer is no recording: {error}.")
    output.fail("The connection to the gateway ended; the session may still run.")


def _tell_denied(told: Any) -> NoReturn:
    """The right to watch ended while watching."""
    problem = told if isinstance(told, dict) else {}
    why = safe(str(problem.get("detail", "You may not watch this session any longer.")))
    output.fail(why, output.EXIT_DENIED, code=str(problem.get("code", "denied")))
