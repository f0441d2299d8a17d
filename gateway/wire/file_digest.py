"""The digest of a file that is seen piece by piece as it passes, each piece with its place in the file."""

import hashlib


class FileDigest:
    """SHA-256 of the octets if they come in order from the start; else a digest of the runs they came in.

    A run is a stretch without a gap. Of each run (its offset and length, 8 octets each, big-endian, and its SHA-256)
    is kept only in one running SHA-256, so that a file read in any order costs a few hundred octets of memory.
    """

    __slots__ = ("_content", "_earlier", "_end", "_lost", "_start", "octets", "runs")

    def __init__(self) -> None:
        self.octets = 0  # that passed, repeated ones included
        self.runs = 0
        self._content = hashlib.sha256()
        self._earlier = hashlib.sha256()
        self._start = self._end = 0
        self._lost = False

    def begin(self, offset: int) -> None:
        """The next octets belong there."""
        if offset == self._end:
            return
        if self._end > self._start:
            self._close_run()
        self._start = self._end = offset

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """The next octets."""
        self._content.update(piece)
        self._end += len(piece)
        self.octets += len(piece)

    def lose(self) -> None:
        """Octets that nobody here saw went into the file."""
        self._lost = True

    def _close_run(self) -> None:
        self._earlier.update(self._run())
        self._content = hashlib.sha256()
        self.runs += 1

    def _run(self) -> bytes:
        head = self._start.to_bytes(8, "big") + (self._end - self._start).to_bytes(8, "big")
        return head + self._content.digest()

    def fields(self) -> dict[str, object]:
        """`sha256` of the content, or `sha256` null and `runs` and `sha256_runs` when it came out of order."""
        if self._lost:
            return {"sha256": None}
        if not self.runs and not self._start:
            return {"sha256": self._content.hexdigest()}
        runs = self._earlier.copy()
        more = self._end > self._start
        if more:
            runs.update(self._run())
        return {"sha256": None, "runs": self.runs + more, "sha256_runs": runs.hexdigest()}
