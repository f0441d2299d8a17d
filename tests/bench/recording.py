"""What recording costs: processor time and speed of the recorder, and of the search index, each alone.

`python -m tests.bench.recording`
"""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, process_time

from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.recordings import FileRecorder, Keyring, SpoolRecording, StatementIndex, index
from gateway.audit.recording import BATCH, batch_of, encode
from gateway.core.obligation import Record
from gateway.core.session import Protocol, Session

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SESSIONS = 20
PATIENCE = timedelta(seconds=60)


def session(number: int) -> Session:
    return Session(
        id=f"ses_{number}", grant="grt_1", holder="usr_1", holder_name="oncall", target="orders-db", level="read",
        protocol=Protocol.POSTGRES, client="127.0.0.1:1", gateway="gw1", started_at=AT, deadline=AT + timedelta(hours=1),
    )  # fmt: skip


def appended(recordings: list[SpoolRecording], count: int, payload: bytes) -> None:
    for number in range(count):
        last = recordings[number % SESSIONS].append("out", AT, payload)
        if number >= count - SESSIONS:
            recordings[number % SESSIONS].wait_durable(last, PATIENCE)


def measured(what: str, count: int, size: int, work: Callable[[], None]) -> None:
    cpu, wall = process_time(), monotonic()
    work()
    cpu, wall = process_time() - cpu, monotonic() - wall
    rate = (
        f"{cpu / (count * size) * 1e9:5.2f} s CPU per GB" if size >= 4096 else f"{cpu / count * 1e6:5.1f} us CPU each"
    )
    print(f"{what:32} {rate}, {count / wall:9,.0f} records/s, {count * size / wall / 1e6:7,.1f} MB/s")


def indexed(count: int, sql: str) -> None:
    """Statements with their results, 16 records a batch; of `sql` the text for each number."""
    records = [
        (kind, number, json.dumps({"n": number, **told}).encode())
        for number in range(count)
        for kind, told in (
            ("statement", {"sql": sql.format(number), "protocol": "simple"}),
            ("result", {"tag": "SELECT 1", "rows": 1, "bytes": 9, "ms": 0.2, "sqlstate": ""}),
        )
    ]
    batches = (batch_of(records[start : start + 16]) for start in range(0, len(records), 16))
    with tempfile.TemporaryDirectory() as directory:
        made = StatementIndex(Path(directory) / "index.sqlite", PostgresParser())
        made.feed(("ses_1", BATCH, encode(0, 0, BATCH, batch)) for batch in batches)
        measured(f"index, {sql}", count, 1, made.store_fed)
        made.close()


def main() -> None:
    index.FEED_SECONDS = 60
    for sql in ("SELECT abalance FROM accounts WHERE aid = {}", "SELECT abalance FROM accounts WHERE aid = $1"):
        indexed(20_000, sql)
    for size, count in ((200, 200_000), (32_768, 20_000)):
        with tempfile.TemporaryDirectory() as directory:
            recorder = FileRecorder(Path(directory), "bench", Keyring(Path(directory) / "key"))
            recordings = [recorder.open(session(n), Record.SPOOL, lambda: None) for n in range(SESSIONS)]
            measured(f"append, {size} bytes", count, size, lambda: appended(recordings, count, bytes(size)))  # noqa: B023 called at once
            for recording in recordings:
                recording.seal()
            measured(f"seal, {size} bytes", count, size, recorder.close)


if __name__ == "__main__":
    main()
