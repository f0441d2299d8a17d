"""A script on one PostgreSQL connection, at the level of libpq: rows are thrown away as they come, notices are bounded.

A cursor would hold every row of a result in memory before it gave the first. libpq itself holds one row at a time.
"""

import select
from collections import Counter
from collections.abc import Callable, Iterator

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from gateway.adapters.credentials.postgres import Connection

LONGEST_NOTICE = 4096
MOST_NOTICES = 10_000
_LOOK_MS = 1000
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
_NO_DATA = b"the gateway brings no data for COPY FROM STDIN"
Output = Callable[[str, bytes], None]
_STATUS = pq.ExecStatus


def run_script(connection: Connection, script: bytes) -> Iterator[str]:
    """What the server says of each statement. Raises psycopg.Error for the first that fails, after the last word."""
    pgconn = connection.pgconn
    pgconn.send_query(script)
    pgconn.set_single_row_mode()
    _flush(pgconn)
    failed: PGresult | None = None
    rows = 0
    while (result := _next(pgconn)) is not None:
        if result.status == _STATUS.SINGLE_TUPLE:
            rows += 1
        elif result.status == _STATUS.COPY_OUT:
            rows += _drained(pgconn)
        elif result.status == _STATUS.COPY_IN:
            pgconn.put_copy_end(_NO_DATA)
            _flush(pgconn)
        elif result.status == _STATUS.FATAL_ERROR:
            failed = failed or result
        else:
            yield _line(result, rows)
            rows = 0
    if failed is not None:
        raise psycopg.errors.error_from_result(failed)


def bounded_notices(output: Output) -> Callable[[psycopg.errors.Diagnostic], None]:
    """A handler that passes so many notices on, each cut; the first that is left out is said."""
    seen: Counter[str] = Counter()

    def heard(notice: psycopg.errors.Diagnostic) -> None:
        seen["notices"] += 1
        if seen["notices"] <= MOST_NOTICES:
            text = f"{notice.severity}: {(notice.message_primary or '')[:LONGEST_NOTICE]}\n"
            output("err", text.encode("utf-8", "replace"))
        elif seen["notices"] == MOST_NOTICES + 1:
            output("err", f"WARNING: more than {MOST_NOTICES} notices; the rest is left out\n".encode())

    return heard


def _line(result: PGresult, rows: int) -> str:
    tag = (result.command_status or b"").decode("utf-8", "replace")
    returned = rows or result.status == _STATUS.TUPLES_OK
    return f"{tag} ({rows} rows, not shown)" if returned else tag


def _next(pgconn: PGconn) -> PGresult | None:
    while pgconn.is_busy():
        _wait(pgconn, select.POLLIN)
        pgconn.consume_input()
        while pgconn.notifies():  # LISTEN would fill the memory otherwise
            pass
    return pgconn.get_result()


def _drained(pgconn: PGconn) -> int:
    """COPY TO STDOUT: the rows go nowhere."""
    rows = 0
    while (got := pgconn.get_copy_data(1))[0] != -1:
        if got[0] == 0:
            _wait(pgconn, select.POLLIN)
            pgconn.consume_input()
        else:
            rows += 1
    return rows


def _flush(pgconn: PGconn) -> None:
    while pgconn.flush():
        if _wait(pgconn, select.POLLIN | select.POLLOUT) & select.POLLIN:
            pgconn.consume_input()


def _wait(pgconn: PGconn, events: int) -> int:
    """Until the socket is ready. Whoever stops the script breaks the connection, which is ready, too."""
    poll = select.poll()
    poll.register(pgconn.socket, events)
    while True:
        ready = poll.poll(_LOOK_MS)
        if ready:
            return ready[0][1] | (select.POLLIN if ready[0][1] & _BROKEN else 0)
