"""Files that are written one after another and get their names together, each once it is whole on disk.

A file system that keeps a journal writes it for the first file that is synced, and then hardly for the others. Few
calls for each file: every one lets go of the interpreter, beside all the sessions that run.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.adapters.recordings.spool import private_directory, sync_directory

CHUNK = 256 * 1024


class Drafts:
    """What has no name when the block ends is gone."""

    def __init__(self) -> None:
        self._drafts: dict[int, tuple[int, Path, str]] = {}  # descriptor, path, name to come

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for descriptor, draft, _ in self._drafts.values():
            with suppress(OSError):
                os.close(descriptor)
            draft.unlink(missing_ok=True)

    def write(self, number: int, directory: Path, name: str, content: Iterable[bytes]) -> None:
        """Begin a file of this name in a directory that is made if need be. OSError: then there is none."""
        draft = directory / f".{name.partition('.')[0]}.draft"
        descriptor = _opened(draft)
        self._drafts[number] = descriptor, draft, name
        try:
            _write_out(descriptor, content)
            # The disk may begin: then the place of each file is in the journal before that is written.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except BaseException:
            del self._drafts[number]
            os.close(descriptor)
            draft.unlink(missing_ok=True)
            raise

    def name_all(self) -> dict[int, OSError]:
        """Make everything durable, with its name; which could not be, by number, and why."""
        failed: dict[int, OSError] = {}
        changed: dict[Path, list[int]] = {}
        for number, (descriptor, draft, name) in list(self._drafts.items()):
            try:
                os.fsync(descriptor)
                draft.replace(draft.parent / name)
            except OSError as error:
                failed[number] = error
                continue
            del self._drafts[number]
            os.close(descriptor)
            changed.setdefault(draft.parent, []).append(number)
        for directory, numbers in changed.items():
            try:
                sync_directory(directory)
            except OSError as error:
                failed |= dict.fromkeys(numbers, error)
        return failed


def _opened(draft: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(draft, flags, 0o600)
    except FileNotFoundError:  # the first of its directory
        private_directory(draft.parent)
        return os.open(draft, flags, 0o600)


def _write_out(descriptor: int, content: Iterable[bytes]) -> None:
    waiting = bytearray()
    for part in content:
        waiting += part
        if len(waiting) >= CHUNK:
            _write_whole(descriptor, waiting)
            waiting.clear()
    _write_whole(descriptor, waiting)


def _write_whole(descriptor: int, content: bytearray) -> None:
    done = 0
    while done < len(content):
        done += os.write(descriptor, content[done:] if done else content)
