"""Searching the audit log, and verifying it on this machine: the server is not asked whether it is honest."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from gateway.audit.checkpoint import BadNoteError, VerifierKey, parse_checkpoint, parse_vkey
from gateway.audit.directory import CHECKPOINT, export_paths, fetch_from
from gateway.audit.proof import SUFFIX, BadReceiptError, verify_receipt
from gateway.audit.read_along import ReadAlong
from gateway.audit.report import Report
from gateway.audit.verify import Fetch, Kept, verify
from gateway.core.obligation import BadObligationError, parse_duration
from gateway.edges.cli import audit_memory, client, output
from gateway.edges.cli.events_in_log import EventsInLog
from gateway.edges.cli.output import moment, safe, say

_PINNING = (
    "Get the key from the operators by a way that the server cannot alter (in person, from your repository), "
    "then pass --key or set GW_AUDIT_KEY. A key that comes from the server itself proves nothing."
)

_LAST = 250_000_000_000  # unix seconds, in the year 9892: what a witness says may be any number


@click.group()
def audit() -> None:
    """Search and verify the audit log."""


# ---------------------------------------------------------------- calls to the API


def _events(query: Mapping[str, object]) -> list[dict[str, Any]]:
    answer = client.api().get("/api/audit/events", **query)
    return list(answer["events"] if isinstance(answer, dict) else answer)


def _event(event_id: str) -> dict[str, Any]:
    return dict(client.api().get(f"/api/audit/events/{client.segment(event_id)}"))


def _receipt(event_id: str) -> str:
    return client.api().get_bytes(f"/api/audit/events/{client.segment(event_id)}/receipt").decode(errors="replace")


def _fetch_from_api() -> Fetch:
    api = client.api()

    def fetch(path: str) -> bytes | None:
        try:
            return api.get_bytes(f"/api/log/{path}")
        except output.Failure as no:
            if no.exit_code == output.EXIT_NOT_FOUND:
                return None
            raise

    return fetch


# ---------------------------------------------------------------- looking


@audit.command()
@click.option("--target", default="")
@click.option("--user", "principal", default="", help="Whose events.")
@click.option("--type", default="", help="For example grant:issued, or grant for all about grants.")
@click.option("--session", default="")
@click.option("--grant", default="")
@click.option("--request", default="")
@click.option("--text", default="", help="Part of the type or of any value in the event.")
@click.option("--since", default="", help="A span such as 90s, 1h, 7d, or an instant (ISO 8601).")
@click.option("--until", default="", help="As --since.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@click.option("--log", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Search this export.")
@click.option("--key", envvar="GW_AUDIT_KEY", default="", help="With --log: its verifier key that you pinned.")
@output.json_option
def search(since: str, until: str, log: Path | None, key: str, as_json: bool, **query: object) -> None:
    """List events, newest first: those that the gateway tells of, or with --log those that your export proves."""
    now = datetime.now(UTC)
    first, end = _instant(since, now), _instant(until, now)
    if log:
        found = EventsInLog(query, *(datetime.fromisoformat(each) if each else None for each in (first, end)))
        read_verified(log, key, found.take)
        events = found.newest_first()
    else:
        events = _events({**query, "since": first, "until": end})
    if as_json:
        output.print_json(events)
        return
    rows = [
        (e["index"], moment(e["at"], now), e["type"], e["outcome"], e["principal"], e["target"], e["id"])
        for e in events
    ]
    output.table(("#", "at", "type", "outcome", "who", "target", "id"), rows, empty="No event matches.")


def read_verified(log: Path, key: str, take: Callable[[int, bytes], object]) -> None:
    """Have `take` read an export that verifies under the pinned key; ends the command when it does not."""
    output.progress("Verifying the log …")
    if not verify(ReadAlong(fetch_from(log), take).fetch, pinned(key)).is_verified:
        output.fail("That log does not verify.", output.EXIT_ERROR, f"gw audit verify --dir {log} says why.")


def _instant(text: str, now: datetime) -> str:
    if not text:
        return ""
    try:
        return (now - parse_duration(text)).isoformat()
    except BadObligationError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        output.fail(
            f"{text!r} is neither a span such as 1h nor an instant such as 2026-01-31T09:30.", output.EXIT_USAGE
        )
    return at.astimezone(UTC).isoformat()  # an instant without a zone is local time


@audit.command()
@click.argument("event")
@output.json_option
def show(event: str, as_json: bool) -> None:
    """Show one EVENT in full."""
    found = _event(event)
    if as_json:
        output.print_json(found)
        return
    for name, value in found.items():
        if value not in ("", None):
            text = json.dumps(value, ensure_ascii=True) if isinstance(value, dict | list) else safe(value)
            say(f"{name + ':':<11} {text}")


@audit.command()
@click.argument("event")
@click.option("--out", type=click.Path(path_type=Path), help=f"Write to this file; such files end in {SUFFIX}.")
@click.option("--key", envvar="GW_AUDIT_KEY", default="", help="Verify it under this pinned key first.")
@output.json_option
def receipt(event: str, out: Path | None, key: str, as_json: bool) -> None:
    """Take the receipt of an EVENT: proof, to be kept, that it is in the log."""
    text = _receipt(event)
    if key:
        try:
            proved = verify_receipt(text, pinned(key))
        except BadReceiptError as error:
            output.fail(f"The receipt proves nothing: {error}.")
        if proved.event["id"] != event:
            output.fail("The receipt is of another event.")
    if out is not None:
        _write(out, text.encode())
    if as_json:
        output.print_json({"receipt": text, "verified": bool(key), "file": str(out) if out else None})
    elif out is None:
        click.echo("\n".join(map(safe, text.split("\n"))), nl=False)  # in a receipt there is nothing to escape
    else:
        say(f"Receipt written to {out}{', verified' if key else ''}.")


@audit.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@output.json_option
def export(directory: Path, as_json: bool) -> None:
    """Copy the whole log into DIRECTORY, to verify or keep it elsewhere."""
    fetch = _fetch_from_api()
    note = fetch(CHECKPOINT) or b""
    try:
        checkpoint = parse_checkpoint(note.decode().partition("\n\n")[0] + "\n")
    except ValueError as error:
        output.fail(f"The log's checkpoint cannot be read: {error}.")
    output.progress(f"Copying {checkpoint.size} events …")
    count = 0
    for path in export_paths(checkpoint.size):
        content = fetch(path)
        if content is None:
            output.fail(f"The log does not give {path}, which its checkpoint promises.")
        _write(directory / path, content)
        count += 1
    _write(directory / CHECKPOINT, note)  # last: a copy that was broken off has none
    if as_json:
        output.print_json({"directory": str(directory), "events": checkpoint.size, "files": count + 1})
    else:
        say(f"{checkpoint.size} events copied to {directory}. Next: gw audit verify --key KEY --dir {directory}")


def _write(path: Path, content: bytes) -> None:
    try:
        client.write_private(path, content)
    except OSError as error:
        output.fail(f"{path} cannot be written: {error.strerror}.")


# ---------------------------------------------------------------- verifying


@audit.command("verify")
@click.option("--key", envvar="GW_AUDIT_KEY", default="", help="The log's verifier key that you pinned [GW_AUDIT_KEY].")
@click.option("--dir", "directory", type=click.Path(path_type=Path, exists=True, file_okay=False), help="An export.")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="One that you kept.")
@click.option("--receipt", "receipts", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--witness", "witnesses", multiple=True, help="Verifier key of a witness that must have cosigned.")
@click.option("--fresh", is_flag=True, help="Neither use nor keep what was verified here before.")
@output.json_option
def verify_log(
    key: str,
    directory: Path | None,
    checkpoint: Path | None,
    receipts: tuple[Path, ...],
    witnesses: tuple[str, ...],
    fresh: bool,
    as_json: bool,
) -> None:
    """Verify the whole log, from an export or over the API, and that it extends what was verified here before."""
    log_key = pinned(key)
    keys = [pinned(witness) for witness in witnesses]
    memory = Kept() if fresh else _read(lambda: audit_memory.load(log_key.name))
    notes = [_text(checkpoint)] if checkpoint else []
    kept = Kept(memory.checkpoint, memory.entries, [_text(path) for path in receipts], notes)
    output.progress("Verifying the log …")
    report = verify(fetch_from(directory) if directory else _fetch_from_api(), log_key, kept, keys)
    absent = [w.name for w in keys if w.name not in dict(report.witnesses)]
    if report.is_verified and not absent and not fresh:
        _read(lambda: audit_memory.save(report))
    _tell(report, absent, as_json)


def _tell(report: Report, absent: list[str], as_json: bool) -> None:
    is_verified = report.is_verified and not absent
    if as_json:
        output.print_json(_as_json(report, absent, is_verified=is_verified))
        if not is_verified:
            raise click.exceptions.Exit(output.EXIT_ERROR)
        return
    if is_verified and report.checkpoint is not None:
        say(f"Verified: {report.checkpoint.size} events of {safe(report.checkpoint.origin)}, all as they were signed.")
        say(f"Root {report.checkpoint.root.hex()}{_cosigned(report)}.")
        if report.newest_at:
            say(f"The newest is of {report.newest_at}, {moment(report.newest_at)}. An old copy verifies, too.")
        return
    for finding in report.findings:
        say(f"{finding.fault.value}: {safe(finding.sentence)}", err=True)
    for name in absent:
        say(f"witness: {safe(name)} has not cosigned.", err=True)
    output.fail("The log is NOT verified.", output.EXIT_ERROR, "Keep a copy (gw audit export) and tell your auditors.")


def _cosigned(report: Report) -> str:
    """With when, as the witnesses say: a checkpoint that was cosigned long ago is an old one."""
    said = [f"{safe(name)} ({_when(unix_time)})" for name, unix_time in report.witnesses]
    return f", cosigned by {', '.join(said)}" if said else ""


def _when(unix_time: int) -> str:
    return moment(datetime.fromtimestamp(unix_time, UTC).isoformat()) if unix_time < _LAST else f"at {unix_time}"


def _as_json(report: Report, absent: list[str], *, is_verified: bool) -> dict[str, object]:
    findings = [
        {"fault": f.fault.value, "index": f.index, "event": f.event, "sentence": f.sentence} for f in report.findings
    ]
    checkpoint = report.checkpoint
    return {
        "verified": is_verified,
        "origin": checkpoint.origin if checkpoint else None,
        "size": checkpoint.size if checkpoint else None,
        "root": checkpoint.root.hex() if checkpoint else None,
        "newest_at": report.newest_at or None,
        "witnesses": [name for name, _ in report.witnesses],
        "cosigned_at": dict(report.witnesses),
        "witnesses_absent": absent,
        "first": findings[0] if findings else None,
        "findings": findings,
    }


def pinned(text: str) -> VerifierKey:
    """The key that somebody typed; ends the command when there is none, or it is none."""
    if not text:
        output.fail("Verification needs the log's key, pinned by you.", output.EXIT_USAGE, _PINNING, code="no-key")
    try:
        return parse_vkey(text)
    except BadNoteError as error:
        output.fail(f"That key cannot be used: {error}.", output.EXIT_USAGE, _PINNING, code="bad-key")


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:1_000_000].decode()
    except (OSError, UnicodeDecodeError):
        output.fail(f"{path} cannot be read as text.", output.EXIT_USAGE)


def _read(action: Callable[[], Any]) -> Any:
    """What was kept here is evidence: when it is damaged, say so rather than go on without."""
    try:
        return action()
    except (OSError, ValueError) as error:
        _damaged(error)


def _damaged(error: Exception) -> NoReturn:
    output.fail(
        f"What was verified here before cannot be read or written: {error}.",
        output.EXIT_ERROR,
        f"Look at {audit_memory.directory()}; --fresh goes on without it and cannot detect a rewritten history.",
    )
