from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.obligation import (
    DUTIES,
    INFORMATIVE,
    BadObligationError,
    Obligations,
    Record,
    StepUp,
    merge,
    parse_duration,
    parse_obligations,
)

spans = st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=30))
obligations = st.builds(
    Obligations,
    max_duration=st.none() | spans,
    approvals=st.integers(0, 9),
    review=st.booleans(),
    review_within=spans,
    record=st.sampled_from(Record),
    notify=st.frozensets(st.sampled_from(["slack", "pager", "mail"])),
    step_up=st.sampled_from(StepUp),
    max_auth_age=st.none() | spans,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("4h", timedelta(hours=4)),
        ("1d", timedelta(days=1)),
        ("99999s", timedelta(seconds=99999)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0h", "1", "h", "-1h", "1.5h", "1h ", " 1h", "1h\n", "1H", "1w", "100000s", "1h30m", "\u0661h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadObligationError, match="is not a duration"):
        parse_duration(text)


@given(st.text(max_size=8))
def test_a_duration_is_positive_or_refused(text: str) -> None:
    try:
        assert parse_duration(text) > timedelta(0)
    except BadObligationError:
        assert (
            not text.isascii()
            or text == ""
            or text[-1] not in "smhd"
            or not text[:-1].isdigit()
            or text[0] == "0"
            or len(text) > 6
        )


def test_no_annotation_is_the_default() -> None:
    assert parse_obligations({"id": "x", "description": "y"}) == Obligations()


def test_every_duty_is_read() -> None:
    annotations = {
        "id": "admin",
        "max_duration": "4h",
        "approvals": "2",
        "review": "required",
        "review_within": "1d",
        "record": "require",
        "notify": "slack, pager,,",
        "step_up": "webauthn-each",
        "max_auth_age": "10m",
    }
    assert set(annotations) - INFORMATIVE == DUTIES
    assert parse_obligations(annotations) == Obligations(
        max_duration=timedelta(hours=4),
        approvals=2,
        review=True,
        review_within=timedelta(days=1),
        record=Record.REQUIRE,
        notify=frozenset({"slack", "pager"}),
        step_up=StepUp.EACH,
        max_auth_age=timedelta(minutes=10),
    )
    assert parse_obligations({"review": "none", "record": "spool"}) == Obligations()


@given(st.text(min_size=1, max_size=12).filter(lambda key: key not in DUTIES | INFORMATIVE))
def test_an_unknown_annotation_is_refused_by_name(key: str) -> None:
    with pytest.raises(BadObligationError) as caught:
        parse_obligations({"id": "x", key: "required"})
    assert f"@{key};" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("approvals", ""),
        ("approvals", "10"),
        ("approvals", "-1"),
        ("approvals", "\u0662"),
        ("approvals", "one"),
        ("review", "Required"),
        ("review", ""),
        ("record", "full"),
        ("max_duration", "0h"),
        ("review_within", "soon"),
        ("step_up", "totp"),
        ("step_up", ""),
        ("step_up", "WebAuthn"),
        ("max_auth_age", "0m"),
        ("max_auth_age", "fresh"),
    ],
)
def test_an_unreadable_duty_is_refused(key: str, value: str) -> None:
    with pytest.raises(BadObligationError):
        parse_obligations({key: value})


@given(st.lists(obligations, min_size=1, max_size=5))
def test_the_merge_is_as_strict_as_each(many: list[Obligations]) -> None:
    merged = merge(many)
    for one in many:
        assert merged.max_duration is not None or one.max_duration is None
        assert one.max_duration is None or merged.max_duration <= one.max_duration
        assert merged.approvals >= one.approvals
        assert merged.review or not one.review
        assert merged.review_within <= one.review_within
        assert list(Record).index(merged.record) <= list(Record).index(one.record)
        assert merged.notify >= one.notify
        assert list(StepUp).index(merged.step_up) <= list(StepUp).index(one.step_up)
        assert merged.max_auth_age is not None or one.max_auth_age is None
        assert one.max_auth_age is None or merged.max_auth_age <= one.max_auth_age


@given(st.lists(obligations, min_size=1, max_size=5))
def test_the_merge_is_no_stricter_than_any(many: list[Obligations]) -> None:
    merged = merge(many)
    assert merged.max_duration in {o.max_duration for o in many}
    assert merged.approvals in {o.approvals for o in many}
    assert merged.review in {o.review for o in many}
    assert merged.review_within in {o.review_within for o in many}
    assert merged.record in {o.record for o in many}
    assert merged.step_up in {o.step_up for o in many}
    assert merged.max_auth_age in {o.max_auth_age for o in many}
    assert merged.notify == {name for o in many for name in o.notify}


@given(a=obligations, b=obligations, c=obligations)
def test_the_merge_is_idempotent_commutative_and_associative(a: Obligations, b: Obligations, c: Obligations) -> None:
    assert merge([a]) == merge([a, a]) == a
    assert merge([a, b]) == merge([b, a])
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])]) == merge([a, b, c])


def test_nothing_merged_is_the_default() -> None:
    assert merge([]) == Obligations()
