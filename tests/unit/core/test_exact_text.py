import re

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.exact_text import exact, exact_lines, quoted

TEXTS = st.text(st.one_of(st.sampled_from("\\nx20ru'\r\n\t \x1b\u202e\xa0é"), st.characters(exclude_categories=["Cs"])))


def read(line: str) -> str:
    """What a line stands for: its escapes, undone."""
    return re.sub(r"\\(?:[^xuU]|x..|u.{4}|U.{8})", lambda of: of[0].encode().decode("unicode_escape"), line)


@given(TEXTS)
@example("a \\x20")
@example("a \\")
def test_no_two_texts_look_the_same(text: str):
    shown = exact(text)
    assert shown.isprintable()
    assert not shown.endswith(" ")
    assert read(shown) == text
    assert read(quoted(text)[1:-1]) == text


@given(TEXTS)
@example("a\r\nb")
@example("a\rb \n")
def test_nor_do_their_lines(text: str):
    lines = exact_lines(text)
    assert all(line.isprintable() for line in lines)
    said = [line if re.search(r"(?<!\\)(?:\\\\)*\\r(?:\\n)?$", line) else f"{line}\\n" for line in lines]
    assert read("".join(said)).removesuffix("\n") == text


@given(TEXTS)
def test_a_quote_ends_where_its_text_does(text: str):
    assert re.fullmatch(r"'(?:[^'\\]|\\.)*'", quoted(text))


def test_as_people_see_it():
    assert quoted('"$user", public') == "'\"$user\", public'"
    assert quoted("it's \\n  ") == r"'it\'s \\n\x20\x20'"
    assert exact_lines("UPDATE t -- all\r\nSET a = 'x  y'  \n") == [
        "UPDATE t -- all\\r\\n",
        "SET a = 'x  y'\\x20\\x20",
        "",
    ]
