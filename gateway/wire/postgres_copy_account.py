"""The part of the statement account that follows COPY data, whenever it comes."""

from collections import deque

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import Run, Step
from gateway.wire.postgres_copies import Ahead, NewDigest

_SYNC = ord("S")
_COPY_DATA, _COPY_DONE, _COPY_FAIL = b"dcf"
_OF_COPY = frozenset((_COPY_DATA, _COPY_DONE, _COPY_FAIL))


class CopyAccount:
    """What the server owes answers for, as far as COPY is concerned with it."""

    def __init__(self, new_digest: NewDigest) -> None:
        self._new_digest = new_digest
        self._owed: deque[Step] = deque()
        self._skipping = False  # up to the next Sync, after an error in the extended protocol
        self._copying: Run | None = None  # between the server's CopyInResponse and the client's CopyDone
        self._ahead: Ahead | None = None  # what comes before a CopyInResponse, until its CopyDone

    # ------------------------------------------------------------ from the client

    def copied_in(self, size: int, data: bytes) -> None:
        """CopyData of `size` bytes from the client, or 0 for more of one; `data` as far as it has come."""
        run = self._copying
        if run is not None:
            run.bytes_in += size
            if run.copied_in is not None:
                run.copied_in.digest.update(data)
        elif self._owed and not self._skipping:  # the server may not have asked for data yet
            if self._ahead is None:
                step = Step(_COPY_DATA, self._owed[-1].at)
                step.ahead = self._ahead = Ahead(self._new_digest())
                self._owed.append(step)
            self._ahead.bytes += size
            self._ahead.digest.update(data)

    def _copy_ends(self, kind: int, at: float) -> None:
        self._seal_ahead()
        if self._copying is not None:
            self._copying = None
        elif self._owed and not self._skipping:
            self._owed.append(Step(kind, at))  # the server may not have asked for data yet

    def _seal_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.seal()
            self._ahead = None

    # ------------------------------------------------------------ from the server

    def copied_out(self, size: int, data: bytes) -> None:
        """CopyData of `size` bytes to the client, or 0 for more of one; `data` as far as it has come."""
        step = self._due()
        run = step.run if step else None
        if run is not None:
            run.bytes_out += size
            if run.copied_out is not None:
                run.copied_out.digest.update(data)

    def _due(self) -> Step | None:
        """The step that the server answers now. It ignores COPY data and a CopyDone that it did not ask for."""
        while self._owed and self._owed[0].kind in _OF_COPY:
            self._owed.popleft()
        return self._owed[0] if self._owed else None

    def _copies(self, step: Step, kind: int) -> None:
        """CopyInResponse, CopyOutResponse, or CopyBothResponse of a replication connection."""
        if kind in b"HW" and step.run is not None:
            step.run.copies_out(self._new_digest)
        if kind in b"GW":
            self._copy_begins(step)

    def _copy_begins(self, step: Step) -> None:
        """The server reads COPY data now: it ignores the Syncs that are on their way, up to the CopyDone."""
        head, ahead = self._owed.popleft(), None
        while self._owed:
            came = self._owed.popleft()
            if came.kind in (_COPY_DONE, _COPY_FAIL):
                break
            if came.kind == _COPY_DATA:
                ahead = came.ahead
            elif came.kind != _SYNC:
                raise ProtocolViolation("only COPY data may be sent while the target reads it")
        else:
            self._copying, self._ahead = step.run, None
        if step.run is not None:
            step.run.copies_in(self._new_digest, ahead)
        self._owed.appendleft(head)
