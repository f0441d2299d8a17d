"""What a session learns of its database: read exactly, or no session."""

import json

import pytest

from gateway.adapters.postgres_parser import PostgresParser
from gateway.core.masking import ColumnName, Mask
from gateway.edges.proxy.postgres_known import MasksUnsure, known_of, question
from gateway.edges.proxy.postgres_masked import Masking
from gateway.wire.postgres_masks import CannotMask

EMAIL = ColumnName("public", "customers", "email")
MASKS = ((EMAIL, Mask.FULL),)
ANSWER = {
    "relations": [[20001, "public", "customers", True, {"id": 1, "email": 2}], [20002, "public", "search", True, {"id": 1}], [20003, "x", "customers", False, {}]],
    "functions": ["now"], "builtins": None, "odd_functions": ["contact"], "odd_operators": None,
}  # fmt: skip


def answer(**changes: object) -> bytes:
    return json.dumps({**ANSWER, **changes}).encode()


def test_what_is_asked_for_is_masked_and_what_is_built_on_it_is_not_read() -> None:
    known = known_of(answer(), MASKS)
    assert [(r.schema, r.name, dict(r.masks), r.is_blocked) for r in known.relations] == [
        ("public", "customers", {"email": Mask.FULL}, False),
        ("public", "search", {}, True),
        ("x", "customers", {}, False),
    ]
    assert known.functions == {"now"}
    assert known.odd_functions == {"contact"}
    assert known_of(answer(), MASKS) is known, "sessions share what they know"


@pytest.mark.parametrize(
    "row",
    [b"", b"{", b"[]", b"null", answer(relations=None), answer(relations=[[1, "x"]]), answer(functions=None),
     answer(relations=[[20001, "public", "customers", True, {"id": 1}]]), answer(relations=[[20001, "audit", "customers", True, {"email": 1}]]), b"\xff" + answer()],
)  # fmt: skip
def test_what_cannot_be_told_opens_no_session(row: bytes) -> None:
    with pytest.raises(MasksUnsure):
        known_of(row, MASKS)


def test_the_question_parses_and_names_the_tables() -> None:
    sql = question({EMAIL: Mask.FULL, ColumnName("sales", "Größe", "x"): Mask.HASH})
    assert "('public', 'customers'), ('sales', 'Größe')" in sql
    assert PostgresParser().read(sql.encode()).facts.count == 5


def test_where_a_column_comes_from_must_be_known() -> None:
    masking = Masking(known_of(answer(), MASKS), b"k", PostgresParser())
    assert masking._origin(0, 0, 25) is None
    assert masking._origin(1259, 2, 19) is None
    assert masking._origin(20001, 1, 23) is None
    assert masking._origin(20001, -1, 27) is None
    conceal = masking._origin(20001, 2, 25)
    assert conceal is not None
    assert conceal(b"x") == b"****"
    for table, attribute in ((20001, 3), (20002, 1), (99999, 1)):
        with pytest.raises(CannotMask):
            masking._origin(table, attribute, 25)


def test_verdicts_are_kept_for_a_while() -> None:
    masking = Masking(known_of(answer(), MASKS), b"k", PostgresParser())
    for number in range(1200):
        assert masking.judge(b"SELECT %d" % number) is None
    refused = masking.judge(b"SELECT lower(email) FROM customers")
    assert refused is masking.judge(b"SELECT lower(email) FROM customers")
    assert len(masking._judged) <= 500
    assert masking.judge(b"SELECT '" + b"x" * 5000 + b"'") is None
    assert masking.judge(b"SELECT '" + b"x" * 70_000 + b"'") is not None, "too long to be judged"
