"""What people have written, for a chat that shows it so: it calls nobody there, and no link hides where it leads.

One text for all that a webhook may lead to, as the gateway does not know which of them it is:
- Slack: `&`, `<` and `>` as entities, and no others; with that neither `<!channel>` nor `<URL|text>` is left
  (docs.slack.dev, "Formatting message text", escaping). Mattermost takes the same forms ("Slack compatibility").
- Mattermost links `@all`, `@channel`, `@here` and names by themselves, and nothing switches that off: the sign becomes
  its full-width form, but inside of an address of e-mail.
- Mattermost and Teams read Markdown: `[text](URL)`, `![text](URL)` and `[name]: URL` are broken up by a space. A URL
  that stands for itself stays one.
- Whatever does not print (controls, directions, zero width) is shown as an escape.
"""

import re

LONGEST_TITLE = 300
LONGEST_BODY = 1000  # Teams takes 28 KB in all; of a character that does not print the escape has 11 bytes in JSON
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_CALLS = re.compile(r"(?<![A-Za-z0-9])@|@(?=all|channel|everyone|here)", re.IGNORECASE)
_LINKS = re.compile(r"\](?=[(\[:])")


def chat_line(text: str) -> str:
    """One line of at most `LONGEST_TITLE` characters of the text."""
    return _shown(bounded(text, LONGEST_TITLE))


def chat_lines(text: str) -> str:
    """At most `LONGEST_BODY` characters of the text, in the lines that it has."""
    return "\n".join(_shown(line) for line in bounded(text, LONGEST_BODY).split("\n"))


def bounded(text: str, longest: int) -> str:
    """The text, or its beginning with a mark that there is more."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _shown(line: str) -> str:
    printed = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return _LINKS.sub("] ", _CALLS.sub("\uff20", printed)).translate(_ENTITIES)
