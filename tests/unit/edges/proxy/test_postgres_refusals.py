from gateway.app.commit_ports import Asking, Told
from gateway.core.dry_run import Confirm
from gateway.core.target import Level
from gateway.core.written import Write
from gateway.edges.proxy.postgres_refusals import of_held


def detail(sql: str) -> str:
    asking = Asking(1, "m", Confirm.SELF, 1, 3, (Write(sql, "d", "DELETE 3"),))
    return of_held(Level("write", "orders_write", 0), "ses_1", asking, Told(False)).detail


def test_where_a_comment_ends_is_seen_by_whoever_decides() -> None:
    hidden, narrow = "DELETE FROM t -- WHERE id = 1", "DELETE FROM t --\nWHERE id = 1"
    assert detail(hidden) == "1. DELETE 3: DELETE FROM t -- WHERE id = 1"
    assert detail(narrow) == "1. DELETE 3: DELETE FROM t --\n   | WHERE id = 1"
    assert detail("DELETE\r\n\r\n  FROM   t") == "1. DELETE 3: DELETE\n   | FROM t"


def test_where_too_many_are_held_the_person_is_told_that_nobody_was_asked() -> None:
    asking = Asking(1, "m", Confirm.APPROVER, 1, 3, (Write("DELETE FROM t", "d", "DELETE 3"),))
    told = of_held(Level("write", "orders_write", 0), "ses_1", asking, Told(False, waits="Too many were held"))
    assert told.message == "Held by the gateway: transaction 1 has written: 1 statement, 3 rows. Too many were held."
    assert told.hint == "COMMIT again later, or ROLLBACK."
