"""How much of a session's records may wait for the disk: the recorder blocks whoever gives it more than it can hold."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.app.recording_ports import Recording
from gateway.edges.proxy.postgres_books import Backlog

SPOOL_HIGH = 1 << 19  # bytes of records that may wait for the disk before a session is paused
SPOOL_ALL = 1 << 25  # the same for all sessions of a door; the recorder blocks its callers at twice as many


class Room:
    """One session's at the recorder. Everything runs on the event loop.

    `is_full` is called when nothing more may come for now, then `kept` once: whether the recorder has kept it all.
    """

    def __init__(
        self, recording: Recording, backlog: Backlog, is_full: Callable[[], None], kept: Callable[[bool], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._recording = recording
        self._backlog = backlog
        self._is_full = is_full
        self._kept = kept
        self._unkept = 0  # bytes of records given to the recorder since it last said that all is on disk
        self._newest = -1  # number of the last record given to it
        self.is_asking = False

    def give(self, records: list[tuple[str, int, bytes]]) -> int | None:
        """Take from `records` what there is room for; its last one's number. Never waits. RecordingFailed."""
        size, count = self._unkept, 0
        for _, _, data in records:
            if size > SPOOL_HIGH:
                break
            size += len(data)
            count += 1
        if count:
            self._newest = self._recording.append_all(records[:count])
            del records[:count]
        self._owe(size)
        if size > SPOOL_HIGH // 2:
            self._ask()
        elif size and self._backlog.bytes > SPOOL_ALL:
            for ask in tuple(self._backlog.owing):  # what others wrote, who are idle now, has long been on disk
                ask()
            self._ask()
        return self._newest if count else None

    def clear(self) -> None:
        """The session gives nothing more that anybody waits for."""
        self._owe(0)

    def _owe(self, size: int) -> None:
        """So many bytes of records may not be on disk yet."""
        self._backlog.bytes += size - self._unkept
        if size and not self._unkept:
            self._backlog.owing.add(self._ask_kept)
        elif self._unkept and not size:
            self._backlog.owing.discard(self._ask_kept)
        self._unkept = size

    def _ask_kept(self) -> None:
        if not self.is_asking:
            self.is_asking = True
            asked = self._unkept
            self._recording.on_durable(self._newest, lambda ok: self._tell(asked, ok=ok))

    def _ask(self) -> None:
        self._ask_kept()
        if self._unkept > SPOOL_HIGH or self._backlog.bytes > SPOOL_ALL:
            self._is_full()

    def _tell(self, asked: int, *, ok: bool) -> None:
        """From the recorder's thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._hear, asked, ok)

    def _hear(self, asked: int, ok: bool) -> None:
        self.is_asking = False
        if ok:
            self._owe(max(0, self._unkept - asked))  # it may have been cleared since
        self._kept(ok)
