"""Symmetric keys in a 0600 file, one a line: base64 of 32 bytes. All of them count, the last one is the newest."""

import base64
import binascii
import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)
KEY: Final = 32  # bytes
_MOST: Final = 1000
_LONGEST: Final = _MOST * 64
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def keys_of(path: Path, without: str) -> list[bytes]:
    """The keys of a file, which is made with one fresh key when it is not there, the oldest first.

    `without` says what is lost without them. PermissionError when others may read the file, ValueError when it holds
    something else.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _make(path, without)
    return _read(path, without)


def _make(path: Path, without: str) -> None:
    """Whole or not at all: of two processes that start at once, one makes the key and both use it."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp creates 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(base64.b64encode(os.urandom(KEY)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
            log.info("made %s: back it up, without it %s", path, without)
    finally:
        Path(name).unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # a key that a crash takes away takes everything under it along
    finally:
        os.close(directory)


def _read(path: Path, without: str) -> list[bytes]:
    if path.stat().st_mode & _OTHERS:
        raise PermissionError(f"{path} may be read by others; chmod 600 it")
    with path.open("rb") as file:
        content = file.read(_LONGEST + 1)
    keys = [_key(line, path, number) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not keys or len(content) > _LONGEST:
        raise ValueError(f"{path} holds no keys; restore it from a backup, without it {without}")
    return keys


def _key(line: bytes, path: Path, number: int) -> bytes:
    try:
        key = base64.b64decode(line.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY:
        raise ValueError(f"{path}:{number}: not base64 of {KEY} bytes (openssl rand -base64 {KEY} makes one)")
    return key
