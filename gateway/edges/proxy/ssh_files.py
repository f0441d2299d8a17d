"""Files that pass through a channel: followed, held to the level's rules, and recorded one by one.

A gate stands between the two pumps of a relay. `inward` and `outward` are called by one thread each and return what
may go on; they wait when one direction has to be understood before the other may be.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Condition, Lock
from typing import Protocol

from gateway.core import file_rules
from gateway.core.file_rules import DOWNLOAD, UPLOAD, allows, allows_all, may_alias, may_rename
from gateway.core.target import FileRule
from gateway.edges.proxy.ssh_record import ChannelRecord
from gateway.edges.proxy.ssh_zstd import zstd
from gateway.wire.rsync import RsyncWalker
from gateway.wire.scp import Moved, ScpError, ScpWalker, TransferCommand, transfer_command
from gateway.wire.sftp import SftpWalker
from gateway.wire.sftp_packets import SftpError
from gateway.wire.sftp_requests import Asked, Denied, Done

_LOOK_EVERY = 1.0  # seconds; a person who is gone while a gate waits is noticed then
_NOT_UNDERSTOOD = "The gateway cannot follow this file transfer, so it ends here"
Octets = bytes | bytearray | memoryview


class ChannelRefusedError(Exception):
    """A channel may not begin, or go on. The text is a sentence for the person."""


class FileGate(Protocol):
    """See the module's text. `outward(b"")` asks for answers of the gateway's own."""

    def inward(self, octets: Octets) -> Iterable[Octets]:
        """What may go on to the target. Raises ChannelRefusedError, RecordingFailed."""
        ...

    def outward(self, octets: Octets) -> Iterable[Octets]:
        """What may go on to the person."""
        ...

    def is_prompt(self, *, inward: bool) -> bool:
        """False when what comes in that direction may have to wait for the other one. True holds until more comes."""
        ...

    def end(self) -> None:
        """The channel is over: record what is unfinished, let go whoever waits."""
        ...


class NoFiles:
    """The gate of a channel that carries no files."""

    def inward(self, octets: Octets) -> Iterable[Octets]:
        """All of it."""
        return (octets,)

    def outward(self, octets: Octets) -> Iterable[Octets]:
        """All of it."""
        return (octets,) if octets else ()

    def is_prompt(self, *, inward: bool) -> bool:
        """Neither direction waits."""
        del inward
        return True

    def end(self) -> None:
        """Nothing is held."""


def open_gate(
    kind: str,
    command: bytes,
    rules: Sequence[FileRule],
    record: ChannelRecord,
    poke: Callable[[], None],
    is_over: Callable[[], bool],
) -> FileGate:
    """The gate for a shell, exec or subsystem request. Raises ChannelRefusedError when rules forbid it altogether.

    `poke` makes the outward pump call `outward(b"")`; `is_over` is true when nobody is there any more.
    """
    if kind == "subsystem":
        return SftpGate(rules, record, poke, is_over)
    found = transfer_command(command) if kind == "exec" else None
    if found is None:
        return NoFiles()
    if found.program == "sftp":
        return SftpGate(rules, record, poke, is_over)
    if found.program == "rsync":
        if not (allows_all(rules, DOWNLOAD) and allows_all(rules, UPLOAD)):
            raise _refused(record, found, "rsync cannot be held to them. Use sftp, or scp")
        return RsyncGate(record, found)
    if not allows_all(rules, found.direction):
        raise _refused(record, found, "scp's old protocol cannot be held to them. Use scp without -O, or sftp")
    return ScpGate(record, found, is_over)


def _refused(record: ChannelRecord, command: TransferCommand, why: str) -> ChannelRefusedError:
    sentence = f"This level has rules about files, and {why}."
    paths = " ".join(command.paths)
    record.file_refused(op=command.program, path=paths, direction=command.direction, why=sentence)
    return ChannelRefusedError(sentence)


class _Walked:
    """What gates with a walker share. Everything that touches the walker holds `_changed`."""

    def __init__(self, record: ChannelRecord, is_over: Callable[[], bool]) -> None:
        self._record = record
        self._is_over = is_over
        self._changed = Condition()
        self._over = False

    def _wait(self) -> bool:
        """Until the other direction went on; False when there is nobody to wait for."""
        if self._over or self._is_over():
            return False
        self._changed.wait(_LOOK_EVERY)
        return not self._over


class SftpGate(_Walked):
    """SFTP, as the subsystem or as a command."""

    def __init__(
        self, rules: Sequence[FileRule], record: ChannelRecord, poke: Callable[[], None], is_over: Callable[[], bool]
    ) -> None:
        super().__init__(record, is_over)
        self._rules = rules
        self._poke = poke
        self._walker = SftpWalker(self._judge)

    def inward(self, octets: Octets) -> Iterable[Octets]:
        """See `FileGate`."""
        with self._changed:
            while self._walker.is_full:
                if not self._wait():
                    return ()
            try:
                passes = self._walker.from_client(octets, time.monotonic())
            except SftpError as wrong:
                raise self._not_understood(wrong) from wrong
            self._settle()
            answers_are_due = self._walker.has_answers
        if answers_are_due:
            self._poke()
        return (passes,) if passes else ()

    def outward(self, octets: Octets) -> Iterable[Octets]:
        """See `FileGate`."""
        with self._changed:
            was_full = self._walker.is_full
            try:
                boundary = self._walker.from_server(octets, time.monotonic())
            except SftpError as wrong:
                raise self._not_understood(wrong) from wrong
            self._settle()
            answers = self._walker.take_answers() if boundary >= 0 and self._walker.has_answers else b""
            if was_full:
                self._changed.notify_all()
        if answers:
            view = memoryview(octets)
            return (b"".join((view[:boundary], answers, view[boundary:])),)
        return (octets,) if octets else ()

    def is_prompt(self, *, inward: bool) -> bool:
        """See `FileGate`."""
        return not (inward and self._walker.is_full)

    def end(self) -> None:
        """See `FileGate`."""
        with self._changed:
            self._over = True
            self._walker.interrupt(time.monotonic())
            self._changed.notify_all()
            self._settle()

    def _not_understood(self, wrong: SftpError) -> ChannelRefusedError:
        self._record.fact("refused", what=f"sftp: {wrong}")
        return ChannelRefusedError(f"{_NOT_UNDERSTOOD}: {wrong}.")

    def _settle(self) -> None:
        if not self._walker.done:
            return
        done, self._walker.done = self._walker.done, []
        for one in done:
            if isinstance(one, Denied):
                self._record.file_refused(**self._names(one.asked), why=one.sentence)
            else:
                self._record_done(one)

    def _record_done(self, one: Done) -> None:
        fields = self._names(one.asked)
        if one.digest is not None:
            fields["op"] = "transfer"
        self._record.file(
            via="sftp", **fields, direction=one.direction, octets=one.digest.octets if one.digest else 0,
            seconds=one.until - one.at, outcome=one.outcome, digest=one.digest,
        )  # fmt: skip

    def _names(self, asked: Asked) -> dict[str, str]:
        """The names as absolute ones where that can be said, else as they came."""
        names = [
            file_rules.resolve(path, self._walker.base) or path[:4096].decode("utf-8", "surrogateescape")
            for path in asked.paths
        ]
        return {"op": asked.op, "path": names[0], **({"to": names[1]} if names[1:] else {})}

    # ---------------------------------------------------------------- rules

    def _judge(self, asked: Asked) -> str | None:
        if not self._rules or asked.op in ("list", "copy"):  # a copy is between files that were judged when opened
            return None
        names = [file_rules.resolve(path, self._walker.base) for path in asked.paths]
        if asked.op == "rename":
            return None if may_rename(self._rules, *names) else _no_rename(names)
        if asked.op == "link":
            return None if may_alias(self._rules, *names) else _no_rename(names)
        if asked.op == "symlink":
            return self._judge_symlink(asked.paths, names)
        ways = [way for way, wanted in ((DOWNLOAD, asked.reads), (UPLOAD, asked.changes)) if wanted]
        return next((self._sentence(way, names[0]) for way in ways if not allows(self._rules, way, names[0])), None)

    def _judge_symlink(self, paths: Sequence[bytes], names: Sequence[str | None]) -> str | None:
        """Clients and servers differ in which name comes first (OpenSSH's PROTOCOL §4.1), so either must be right.

        A relative one means something else once the link or its directory is moved.
        """
        if not all(path.startswith(b"/") for path in paths):
            return "This level has rules about files: give both names of a symbolic link in full, from / on."
        one, other = names
        is_right = may_alias(self._rules, one, other) and may_alias(self._rules, other, one)
        return None if is_right else _no_rename(names)

    def _sentence(self, direction: str, path: str | None) -> str:
        if path is None:
            return "This level has rules about files: give the name in full, from / on and without '..'."
        rule = file_rules.matching_rule(self._rules, direction, path)
        why = "none of its rules allows it" if rule is None else f"its rule for {rule.path} says no"
        done = "downloaded" if direction == DOWNLOAD else "uploaded or changed"
        return f"This level does not let this file be {done}: {why}."


def _no_rename(names: Sequence[str | None]) -> str:
    if None in names:
        return "This level has rules about files: give both names in full, from / on and without '..'."
    return "This level's rules about files do not let the one name take the other's place."


class ScpGate(_Walked):
    """scp's old protocol, `scp -t` and `scp -f` on the target."""

    def __init__(self, record: ChannelRecord, command: TransferCommand, is_over: Callable[[], bool]) -> None:
        super().__init__(record, is_over)
        self._direction = command.direction
        self._walker = ScpWalker(command)

    def inward(self, octets: Octets) -> Iterator[Octets]:
        """See `FileGate`."""
        return self._source(octets) if self._direction == UPLOAD else self._sink(octets)

    def outward(self, octets: Octets) -> Iterator[Octets]:
        """See `FileGate`."""
        return self._sink(octets) if self._direction == UPLOAD else self._source(octets)

    def _source(self, octets: Octets) -> Iterator[Octets]:
        """As much as the sink has asked for at a time."""
        rest = memoryview(octets)
        while rest:
            with self._changed:
                try:
                    while not (count := self._walker.from_source(rest, time.monotonic())):
                        if not self._wait():
                            return
                except ScpError as wrong:
                    raise self._not_understood(wrong) from wrong
                self._settle()
            yield rest[:count]
            rest = rest[count:]

    def _sink(self, octets: Octets) -> Iterator[Octets]:
        if not octets:
            return
        with self._changed:
            try:
                self._walker.from_sink(octets, time.monotonic())
            except ScpError as wrong:
                raise self._not_understood(wrong) from wrong
            self._settle()
            self._changed.notify_all()
        yield octets

    def is_prompt(self, *, inward: bool) -> bool:
        """See `FileGate`: the source waits for the sink."""
        return inward == (self._direction == DOWNLOAD)

    def end(self) -> None:
        """See `FileGate`."""
        with self._changed:
            self._over = True
            self._walker.interrupt(time.monotonic())
            self._changed.notify_all()
            self._settle()

    def _not_understood(self, wrong: ScpError) -> ChannelRefusedError:
        self._record.fact("refused", what=f"scp: {wrong}")
        return ChannelRefusedError(f"{_NOT_UNDERSTOOD}: {wrong}.")

    def _settle(self) -> None:
        done, self._walker.done = self._walker.done, []
        for one in done:
            self._record_moved(one)

    def _record_moved(self, one: Moved) -> None:
        is_file = one.op == "open"
        self._record.file(
            via="scp", op="transfer" if is_file else one.op, path=one.path.decode("utf-8", "surrogateescape"),
            direction=self._direction, octets=one.digest.octets, seconds=one.until - one.at, outcome=one.outcome,
            digest=one.digest if is_file else None, mode=one.mode,
        )  # fmt: skip


class RsyncGate:
    """rsync: everything goes on at once, and is followed as it passes. A record for each file, and one for the run."""

    def __init__(self, record: ChannelRecord, command: TransferCommand) -> None:
        self._record = record
        self._command = command
        self._walker = RsyncWalker(command, {"zstd": zstd})
        self._walking = Lock()
        self._began = time.monotonic()
        self._octets = {UPLOAD: 0, DOWNLOAD: 0}
        self._of_files = 0  # those that have a record of their own
        self._over = False

    def inward(self, octets: Octets) -> Iterable[Octets]:
        """See `FileGate`."""
        self._octets[UPLOAD] += len(octets)
        self._follow(self._walker.from_client, octets)
        return (octets,)

    def outward(self, octets: Octets) -> Iterable[Octets]:
        """See `FileGate`."""
        self._octets[DOWNLOAD] += len(octets)
        self._follow(self._walker.from_server, octets)
        return (octets,) if octets else ()

    def is_prompt(self, *, inward: bool) -> bool:
        """Neither direction waits."""
        del inward
        return True

    def end(self) -> None:
        """One record for the whole run."""
        with self._walking:
            if self._over:
                return
            self._over = True
            self._walker.end(time.monotonic())
            self._told()
            why, is_over = self._walker.gave_up, self._walker.is_over
        outcome = "ok" if is_over else "not-parsed" if why else "interrupted"
        octets = self._octets[self._command.direction]
        self._record.file(
            via="rsync", op="rsync", path=" ".join(self._command.paths), direction=self._command.direction,
            octets=octets, seconds=time.monotonic() - self._began, outcome=outcome, digest=None,
            arguments=list(self._command.arguments), **({"why": why} if why else {}),
        )  # fmt: skip
        if why:
            self._record.moved(self._command.direction, max(0, octets - self._of_files))

    def _follow(self, walk: Callable[[Octets, float], None], octets: Octets) -> None:
        with self._walking:
            if not self._over:
                walk(octets, time.monotonic())
                self._told()

    def _told(self) -> None:
        done, self._walker.done = self._walker.done, []
        for one in done:
            self._of_files += one.digest.octets
            more = {"matched": one.matched} if one.matched else {}
            compression = {"compression": one.compression} if one.compression else {}
            self._record.file(
                via="rsync", op="transfer", path=one.path.decode("utf-8", "backslashreplace"),
                direction=self._command.direction, octets=one.digest.octets, seconds=one.until - one.at,
                outcome=one.outcome, digest=one.digest, size=one.size, **more, **compression,
            )  # fmt: skip
