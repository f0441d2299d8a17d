"""Run as a process of its own and killed: sessions of ten statements each end one after another, and it says which are
sealed and no more in any spool.
"""

import itertools
import sys
from datetime import timedelta
from pathlib import Path

from gateway.adapters.recordings import FileRecorder, SpoolLimits, StatementIndex
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, PATIENCE, eventually, is_sealed, keyring, nothing, session

STATEMENTS = 10


def main(directory: Path, index_every_ms: int) -> None:
    recorder = FileRecorder(
        directory, "gw1", keyring(directory),
        index=StatementIndex(directory / "statements.sqlite"),
        limits=SpoolLimits(segment_bytes=2_000),
        evidence_every=timedelta(milliseconds=index_every_ms),
    )  # fmt: skip
    for number in itertools.count():
        name = f"ses_{number:05}"
        recording = recorder.open(session(name), Record.REQUIRE, nothing)
        for n in range(STATEMENTS):
            seq = recording.append("statement", AT, b'{"n": %d, "sql": "select %d"}' % (n, n))
        recording.wait_durable(seq, PATIENCE)
        recording.seal()
        eventually(is_sealed(recorder, name))
        spools = b"".join(path.read_bytes() for path in (directory / "spool").glob("*.gwspool"))
        for earlier in range(max(0, number - 3), number):
            if f"ses_{earlier:05}".encode() not in spools:
                print(f"ses_{earlier:05}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
