"""What is asked for: nothing that somebody typed gets into the question but names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.session_settings import MOST_NAMES, OTHERS, Asked, custom_names

TOLD = {"search_path": "public"}


def answered(asked: Asked) -> dict[str, str]:
    return dict(asked.answer(json.dumps(TOLD).encode()))


@given(st.lists(st.text(max_size=80), max_size=5))
def test_only_plain_names_are_asked_for_and_others_are_told_of(names: list[str]) -> None:
    asked = Asked()
    plain = asked.question()
    assert plain.isascii()  # a database in LATIN1 has no other characters for it
    asked.add(names)
    for letter in (b"'", b"\\", b";", b"--", b'"'):
        assert asked.question().count(letter) <= plain.count(letter) + (2 * len(names) if letter == b"'" else 0)
    quoted = [f"'{name}'".encode() for name in names]  # some, such as '=', stand in the question anyway
    is_known = all(asked.question().count(name) > plain.count(name) for name in quoted)
    assert (OTHERS in answered(asked)) is not is_known


def test_there_is_an_end_to_names() -> None:
    asked = Asked()
    asked.add([f"app.n{n:03}" for n in range(MOST_NAMES)])
    asked.add(["app.n000"])
    assert OTHERS not in answered(asked)
    asked.add(["app.one_more"])
    assert OTHERS in answered(asked)
    assert b"one_more" not in asked.question()


def test_names_with_a_dot_are_those_that_a_server_shows_by_name_alone() -> None:
    assert custom_names({"search_path", "app.tenant"}, b"SELECT Set_Config( 'app.who', $1, true), set_config('x', 'y', false)") == {
        "app.tenant", "app.who"
    }  # fmt: skip


@pytest.mark.parametrize("told", [b"", b"[]", b"{}", b"null", b'{"search_path"', b'{"schemas": "a"}'])
def test_what_is_no_answer(told: bytes) -> None:
    with pytest.raises(ValueError, match=r"no settings|Expecting"):
        Asked().answer(told)
