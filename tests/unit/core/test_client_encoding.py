"""Which texts could change the client's encoding to one in which the rules would read something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.client_encoding import depends_on_encoding, is_safe_encoding, keeps_ascii, may_change_encoding

SETS, CALLS, NOTHING = frozenset({"client_encoding"}), frozenset({"set_config"}), frozenset[str]()


@pytest.mark.parametrize("name", ["UTF8", "utf-8", "Unicode", "SQL_ASCII", "default", "u t f 8"])
def test_encodings_in_which_ascii_is_ascii(name: str) -> None:
    assert is_safe_encoding(name)


@pytest.mark.parametrize("name", ["SJIS", "BIG5", "GBK", "GB18030", "UHC", "JOHAB", "LATIN1", "", "utf8x", "utf16"])
def test_every_other_one_is_refused(name: str) -> None:
    assert not is_safe_encoding(name)


@pytest.mark.parametrize(
    "name", ["UTF8", "SQL_ASCII", "LATIN1", "LATIN10", "EUC_JIS_2004", "WIN1252", "ISO_8859_5", "KOI8R"]
)
def test_a_database_may_have_an_encoding_of_its_own(name: str) -> None:
    assert keeps_ascii(name)


@pytest.mark.parametrize("name", ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "GB18030", "UHC", "JOHAB", "", "WIN936"])
def test_those_for_clients_alone_are_not_worked_with(name: str) -> None:
    assert not keeps_ascii(name)


@pytest.mark.parametrize(
    "sql",
    [
        "SET client_encoding = 'UTF8'", "set session client_encoding to utf8;", "SET LOCAL client_encoding=UTF8",
        "SET NAMES 'UTF8'", "  set names utf8 ; ", "RESET client_encoding", "SET client_encoding TO DEFAULT",
    ],
)  # fmt: skip
def test_setting_a_safe_one_is_harmless(sql: str) -> None:
    assert not may_change_encoding(sql.encode(), SETS, NOTHING)


@pytest.mark.parametrize(
    "sql",
    [
        "SET client_encoding = 'SJIS'", "SET NAMES 'BIG5'", "SET client_encoding = E'UTF8'", "SET NAMES",
        "SET client_encoding = 'UTF8'; SET client_encoding = 'SJIS'", "SET client_encoding /* x */ = 'UTF8'",
        "RESET client_encoding; SET client_encoding = 'SJIS'", "SET client_encoding = U&'SJIS'",
    ],
)  # fmt: skip
def test_what_is_not_one_plain_safe_setting_is_taken_for_a_change(sql: str) -> None:
    assert may_change_encoding(sql.encode(), SETS, NOTHING)


@pytest.mark.parametrize(
    "sql",
    ["SELECT set_config('application_name', 'x', false)", "SELECT SET_CONFIG ( 'orders.tenant' , $1, true)"],
)
def test_a_function_that_sets_something_else_by_name_is_harmless(sql: str) -> None:
    assert not may_change_encoding(sql.encode(), NOTHING, CALLS)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT set_config('client_encoding', 'SJIS', false)", "SELECT set_config('CLIENT_ENCODING', 'SJIS', false)",
        "SELECT set_config($1, 'SJIS', false)", "SELECT set_config('client' || '_encoding', 'SJIS', false)",
        "SELECT set_config(E'client_encoding', 'SJIS', false)", "SELECT set_config(n, v, false) FROM t",
        "SELECT set_config('a.b', '', false), set_config($1, $2, false)", 'SELECT U&"set\\005fconfig"($1, $2, false)',
        "SELECT set_config('a.b', '', false), U&\"set\\005fconfig\"($1, $2, false)",
    ],
)  # fmt: skip
def test_a_function_whose_setting_is_not_a_plain_other_name_is_taken_for_a_change(sql: str) -> None:
    assert may_change_encoding(sql.encode(), NOTHING, CALLS)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE pg_settings SET setting = 'SJIS' WHERE name = 'client_encoding'",
        'update "pg_catalog"."pg_settings" set setting = $1',
        'UPDATE U&"pg\\005fsettings" SET setting = $1',
    ],
)
def test_the_view_that_sets(sql: str) -> None:
    assert may_change_encoding(sql.encode(), NOTHING, NOTHING)


@given(st.binary(max_size=200))
def test_no_text_is_too_strange_to_be_judged(sql: bytes) -> None:
    assert may_change_encoding(sql, SETS, CALLS) in (True, False)
    if b"update" not in sql.lower():
        assert not may_change_encoding(sql, NOTHING, NOTHING)


ENDS = "\\|;[]{}^~@<=>:?`"


@pytest.mark.parametrize("end", ENDS)
def test_a_text_in_which_a_character_could_take_in_what_ends_something(end: str) -> None:
    assert depends_on_encoding(f"SELECT 'é{end}'".encode())
    assert not depends_on_encoding(f"SELECT 'é {end}', e{end}".encode())


@pytest.mark.parametrize("text", ["SELECT 'é', \"é\" - é/é*é(é)$é$,é.é%é+é&é#é!é", "été1, é_x", "SELECT 1"])
def test_a_text_that_has_the_same_tokens_in_every_encoding(text: str) -> None:
    assert not depends_on_encoding(text.encode())


@pytest.mark.parametrize("encoding", ["shift_jis", "big5", "gbk", "gb18030", "uhc", "johab"])
def test_no_other_character_of_ascii_is_taken_in(encoding: str) -> None:
    """As Python knows these encodings: each of ASCII behind a byte that is not."""
    taken = {
        chr(second)
        for first in range(0x80, 0x100)
        for second in range(1, 0x80)
        if len(bytes((first, second)).decode(encoding, "replace")) == 1
        and "\ufffd" not in bytes((first, second)).decode(encoding, "replace")
    }
    assert taken
    assert {one for one in taken if not (one.isalnum() or one == "_")} <= set(ENDS)
