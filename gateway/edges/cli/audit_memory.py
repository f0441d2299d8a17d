"""What this machine has verified: the last checkpoint of each log and the entries under it.

With them the next verification finds, and names, a history that was rewritten and signed anew.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from gateway.audit.report import Report, Seen
from gateway.audit.verify import Kept
from gateway.edges.cli import client


def directory() -> Path:
    """Where it is kept."""
    return client.home() / "audit"


def load(origin: str) -> Kept:
    """Nothing kept yet is an empty `Kept`; OSError or ValueError when it is there but cannot be read."""
    checkpoint = _path(origin, "checkpoint")
    if not checkpoint.exists():
        return Kept()
    entries = _path(origin, "entries")
    return Kept(checkpoint.read_bytes().decode(), tuple(_entries(entries)) if entries.exists() else ())


def save(report: Report) -> None:
    """Keep a verified report. Entries first: should it end in between, the old checkpoint still finds its own."""
    if report.checkpoint is None or not report.is_verified:
        raise ValueError("only what was verified is kept")
    lines = [f"{b64encode(entry.hash).decode()} {json.dumps(entry.id)}\n" for entry in report.entries]
    client.write_private(_path(report.checkpoint.origin, "entries"), "".join(lines).encode())
    client.write_private(_path(report.checkpoint.origin, "checkpoint"), report.note.encode())


def _path(origin: str, kind: str) -> Path:
    return directory() / f"{sha256(origin.encode()).hexdigest()}.{kind}"


def _entries(path: Path) -> Iterator[Seen]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            hash_text, _, event = line.rstrip("\n").partition(" ")
            yield Seen(b64decode(hash_text, validate=True), str(json.loads(event)))
