import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.leaf import MAX_LEAF, decode_event, encode_event, format_instant, parse_instant
from tests.vectors import make_log_vectors

FIELDS = make_log_vectors.EVENT
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e15, 1e15, allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def leaf(**changed: object) -> bytes:
    return encode_event({**FIELDS, **changed})


def test_the_vector_is_stable_and_canonical():
    kept = json.loads(make_log_vectors.PATH.read_text())
    assert kept == make_log_vectors.vectors()
    # RFC 8785 §3.2.3: U+1F600 sorts before U+E000 by UTF-16 code units, after it by code points
    assert kept["leaf"].index("😀") < kept["leaf"].index("\ue000")
    assert "\\u0007" in kept["leaf"]


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_round_trip_and_order_do_not_matter(data: Any):
    try:
        encoded = leaf(data=data)
    except UnicodeEncodeError:
        return  # lone surrogates have no UTF-8
    assert decode_event(encoded)["data"] == data
    assert leaf(data=dict(reversed(data.items()))) == encoded


@given(st.floats(-(2.0**53) + 1, 2.0**53 - 1, allow_nan=False))
def test_numbers_read_back_as_they_were(number: float):
    assert decode_event(leaf(data={"x": number}))["data"] == {"x": number}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (-123.25, "-123.25"),
        (5e-324, "5e-324"),
    ],
)
def test_numbers_are_laid_out_as_in_ecmascript(number: float, text: str):
    assert f'"x":{text}}}'.encode() in leaf(data={"x": number})


@pytest.mark.parametrize(
    "data",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": 2**53},
        {"x": b"bytes"},
        {"x": datetime.now(UTC)},
        {1: "x"},
        {"x": "\ud800"},
        {"x": "y" * MAX_LEAF},
        ["no object"],
    ],
)
def test_what_json_cannot_hold_unchanged_is_refused(data: Any):
    with pytest.raises(ValueError):
        leaf(data=data)


def test_depth_is_bounded():
    deep: dict[str, object] = {}
    for _ in range(20):
        deep = {"x": deep}
    with pytest.raises(ValueError, match="deep"):
        leaf(data=deep)


@pytest.mark.parametrize("changed", [{"id": ""}, {"type": 1}, {"at": "yesterday"}, {"extra": "x"}])
def test_the_shape_is_fixed(changed: dict[str, object]):
    with pytest.raises(ValueError):
        leaf(**changed)


def test_a_missing_field_is_refused():
    with pytest.raises(ValueError, match="grant"):
        encode_event({name: value for name, value in FIELDS.items() if name != "grant"})


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good.replace(b'"data":', b'"data": '),
        lambda good: good.replace(b"gw-event/1", b"gw-event/2"),
        lambda good: good[:-1] + b',"type":"x:y"}',
        lambda good: good.replace(b'"list":[1,', b'"list":[1.0,'),
        lambda good: good.replace(b'"list":[1,', b'"list":[NaN,'),
        lambda good: good.replace(b'"list":[1,', b'"list":[' + b"9" * 5000 + b","),
        lambda good: b"[" * 60_000,
        lambda good: b"[]",
        lambda good: b"",
        lambda good: b"\xff" + good,
        lambda good: good + b" " * MAX_LEAF,
    ],
)
def test_only_the_canonical_bytes_are_an_event(change: Callable[[bytes], bytes]):
    good = leaf()
    assert decode_event(good) == FIELDS
    with pytest.raises(ValueError):
        decode_event(change(good))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_value_error(data: Any):
    with contextlib.suppress(ValueError):
        decode_event(data)


def test_instants():
    at = datetime(2026, 1, 31, 10, 30, 0, 5, tzinfo=timezone(timedelta(hours=1)))
    assert format_instant(at) == "2026-01-31T09:30:00.000005Z"
    assert parse_instant(format_instant(at)) == at
    with pytest.raises(ValueError):
        format_instant(datetime(2026, 1, 1))
