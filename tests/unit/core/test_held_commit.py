"""An answer to a COMMIT that is held: to one mark, by the right person, and a no for good."""

from dataclasses import replace
from datetime import UTC, datetime

from gateway.core.dry_run import Confirm
from gateway.core.errors import Refusal
from gateway.core.held_commit import HeldCommit, HeldState, decide, held_again, may_decide

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
HELD = HeldCommit("ses_1", 1, "m1", AT, Confirm.APPROVER, 2, 7)
NEXT = replace(HELD, mark="m2", statements=3)
YES = replace(HELD, state=HeldState.CONFIRMED, decided_by="lead", decided_at=AT, reason="ok")
NO = replace(YES, state=HeldState.REFUSED)


def code(found: object) -> str:
    return found.code if isinstance(found, Refusal) else ""


def test_a_yes_is_for_one_mark_and_a_no_for_the_transaction():
    assert held_again(None, HELD) is HELD
    assert held_again(YES, replace(HELD, rows=8)) is YES
    assert held_again(YES, NEXT) is NEXT
    assert held_again(NO, NEXT) is NO
    other = replace(HELD, tx=2)
    assert held_again(NO, other) is other
    assert held_again(YES, other) is other


def test_who_may_say_what():
    assert code(may_decide(HELD, HeldState.CONFIRMED, "usr_1", "usr_1")) == "own-commit"
    assert may_decide(HELD, HeldState.CONFIRMED, "usr_1", "usr_2") is None
    own = replace(HELD, confirm=Confirm.SELF)
    assert may_decide(own, HeldState.CONFIRMED, "usr_1", "usr_1") is None
    assert code(may_decide(own, HeldState.CONFIRMED, "usr_1", "usr_2")) == "not-your-commit"
    for each in (HELD, own):
        for user in ("usr_1", "usr_2"):
            assert may_decide(each, HeldState.REFUSED, "usr_1", user) is None


def test_answers():
    assert decide(HELD, "m1", HeldState.CONFIRMED, "lead", AT, "ok") == YES
    assert decide(HELD, "m1", HeldState.REFUSED, "lead", AT, "ok") == NO
    assert code(decide(HELD, "m2", HeldState.CONFIRMED, "lead", AT, "")) == "commit-changed"
    assert code(decide(YES, "m1", HeldState.CONFIRMED, "lead", AT, "")) == "commit-confirmed"
    assert decide(YES, "m1", HeldState.REFUSED, "lead", AT, "ok") == NO
    assert code(decide(NO, "m1", HeldState.CONFIRMED, "lead", AT, "")) == "commit-refused"
