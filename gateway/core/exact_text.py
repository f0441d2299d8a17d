"""A text as somebody is to read it who answers for it: no two texts look the same."""

import re

_ENDS = re.compile(r"(\r\n|\r|\n)")  # each ends a comment in SQL
_AT_THE_END = re.compile(r" +$")


def exact(text: str) -> str:
    r"""One line with escapes: `\\` for a backslash, `\n`, `\x1b` … for what does not print, `\x20` for spaces at its
    end.
    """
    shown = (c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode("ascii") for c in text)
    return _AT_THE_END.sub(escaped_spaces, "".join(shown))


def exact_lines(text: str) -> list[str]:
    """Its lines; those that do not end in a line feed alone say so."""
    *pieces, last = _ENDS.split(text)
    ended = zip(pieces[::2], pieces[1::2], strict=True)
    return [*(exact(line) + ("" if end == "\n" else exact(end)) for line, end in ended), exact(last)]


def quoted(text: str) -> str:
    """`exact` in single quotes: nothing that stands there without them looks like it."""
    return "'" + exact(text).replace("'", "\\'") + "'"


def escaped_spaces(spaces: re.Match[str]) -> str:
    """In place of spaces that nobody could count."""
    return "\\x20" * len(spaces[0])
