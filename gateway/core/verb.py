"""Deploy verbs: declared command templates with typed, bounded parameters.

A template is a list of words, never a line for a shell. A value takes the place of `{name}` inside one word and can
never become two words or an option: every type has an alphabet of its own, in ASCII, a greatest length, and no value
begins with a dash. sshd hands what it is told to run to the account's shell (RFC 4254 §6.5 has one string), so the
words are quoted for it at the last moment.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from gateway.core.errors import Refusal

MOST_WORDS = 64
LONGEST_WORD = 1000
MOST_PARAMETERS = 16
LONGEST_TEXT = 200
LONGEST_TIMEOUT = timedelta(hours=6)
RESERVED = frozenset({"list", "status", "history", "show", "cancel"})  # words of `gw deploy` itself
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_PLACE = re.compile(r"\{([^{}]*)\}")
_CHOICE = re.compile(r"[A-Za-z0-9_./:@+=][A-Za-z0-9_./:@+=-]{0,99}")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,9}")
_TEXT = re.compile(r"[!-,.-~][ -~]{0,199}")  # printable ASCII that begins with neither space nor dash


class Type(StrEnum):
    """What a value may be. Nothing but `text` lets a space through; nothing lets through more than ASCII."""

    VERSION = "version"
    IDENTIFIER = "identifier"
    INTEGER = "integer"
    CHOICE = "choice"
    GIT_SHA = "git-sha"
    DIGEST = "digest"
    TEXT = "text"


_ALPHABETS = {
    Type.VERSION: (re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,63}"), "letters, digits and ._+- (at most 64)"),
    Type.IDENTIFIER: (re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}"), "letters, digits, _ and - (at most 63)"),
    Type.GIT_SHA: (re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}"), "the 40 or 64 hexadecimal digits of a commit"),
    Type.DIGEST: (re.compile(r"sha256:[0-9a-f]{64}"), "sha256: and 64 hexadecimal digits"),
}


class BadVerbError(ValueError):
    """A declaration that cannot be used."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One typed parameter. `least` and `most` bound an integer, `choices` are all that a choice may be."""

    type: Type
    least: int = 0
    most: int = 0
    choices: tuple[str, ...] = ()
    longest: int = LONGEST_TEXT
    default: str | None = None
    description: str = ""


class WhenGone(StrEnum):
    """What becomes of a run whose caller vanishes."""

    GO_ON = "go-on"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Verb:
    """A template and its bounds. `argv` is empty for `migrate` on a database, which runs SQL that the caller brings.

    `account` is the login on the target that it runs as. `version` names the parameter that says what runs there
    afterwards, `rollback` the verb that undoes this one. `owner` (databases) is the role that gets what a migration
    made. `input_limit` 0 takes no input.
    """

    name: str
    account: str
    argv: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    timeout: timedelta = timedelta(minutes=10)
    output_limit: int = 1024 * 1024
    input_limit: int = 0
    rollback: str = ""
    version: str = ""
    when_gone: WhenGone = WhenGone.GO_ON
    owner: str = ""
    in_transaction: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        _check_names(self)
        _check_bounds(self)
        _check_words(self)

    def runs_sql(self) -> bool:
        """True for a migration of a database."""
        return not self.argv


@dataclass(frozen=True, slots=True)
class Bound:
    """A verb with values that were judged. Only `bind` makes one, so that what runs was judged."""

    verb: Verb
    values: Mapping[str, str]

    def argv(self) -> tuple[str, ...]:
        """The words, with values in their places."""
        return tuple(_PLACE.sub(lambda found: self.values[found[1]], word) for word in self.verb.argv)

    def command_line(self) -> str:
        """The words quoted for a POSIX shell."""
        return shlex.join(self.argv())

    def version(self) -> str:
        """What runs on the target once this has succeeded; "" when the verb does not say."""
        return self.values[self.verb.version] if self.verb.version else ""


def bind(verb: Verb, given: Mapping[str, str]) -> Bound | Refusal:
    """The verb with these values; a refusal names the parameter and what it takes, never the value."""
    unknown = sorted(set(given) - set(verb.parameters))
    if unknown:
        known = ", ".join(sorted(verb.parameters)) or "none"
        return _wrong(verb, f"{verb.name} has no parameter {unknown[0][:40]!r}.", f"Its parameters: {known}.")
    values: dict[str, str] = {}
    for name, parameter in verb.parameters.items():
        value = given.get(name, parameter.default)
        if value is None:
            return _wrong(verb, f"{verb.name} needs the parameter {name}.", f"Give it: --param {name}=…")
        if not is_allowed(parameter, value):
            return _wrong(verb, f"The parameter {name} is not allowed: it takes {takes(parameter)}.")
        values[name] = value
    return Bound(verb, values)


def is_allowed(parameter: Parameter, value: str) -> bool:
    """True when the value is of the type, whole: no prefix or line of it."""
    match parameter.type:
        case Type.INTEGER:
            return bool(_INTEGER.fullmatch(value)) and parameter.least <= int(value) <= parameter.most
        case Type.CHOICE:
            return value in parameter.choices
        case Type.TEXT:
            return len(value) <= parameter.longest and _TEXT.fullmatch(value) is not None
        case _:
            return _ALPHABETS[parameter.type][0].fullmatch(value) is not None


def takes(parameter: Parameter) -> str:
    """What a parameter takes, in words."""
    match parameter.type:
        case Type.INTEGER:
            return f"a whole number from {parameter.least} to {parameter.most}"
        case Type.CHOICE:
            return f"one of {', '.join(parameter.choices)}"
        case Type.TEXT:
            return f"printable ASCII that does not begin with a dash (at most {parameter.longest})"
        case _:
            return _ALPHABETS[parameter.type][1]


def _wrong(verb: Verb, message: str, step: str = "") -> Refusal:
    steps = (step or f"gw deploy list shows what {verb.name} takes.",)
    return Refusal("parameter-invalid", message, (), steps)


# ---------------------------------------------------------------- declarations


def _check_names(verb: Verb) -> None:
    if not _NAME.fullmatch(verb.name) or verb.name in RESERVED:
        raise BadVerbError(f"{verb.name[:40]!r} cannot be the name of a verb")
    if len(verb.parameters) > MOST_PARAMETERS:
        raise BadVerbError(f"a verb has at most {MOST_PARAMETERS} parameters")
    for name, parameter in verb.parameters.items():
        if not _NAME.fullmatch(name):
            raise BadVerbError(f"{name[:40]!r} cannot be the name of a parameter")
        _check_parameter(name, parameter)
    if verb.input_limit and "input" in verb.parameters:  # a token may name both, and could not tell one from the other
        raise BadVerbError("a verb that takes input has no parameter called input")
    if verb.version and verb.version not in verb.parameters:
        raise BadVerbError(f"version names {verb.version!r}, which is no parameter")


def _check_parameter(name: str, parameter: Parameter) -> None:
    if parameter.type is Type.INTEGER and not 0 <= parameter.least <= parameter.most <= 9_999_999_999:
        raise BadVerbError(f"the integer {name} needs min and max, 0 ≤ min ≤ max")
    if parameter.type is Type.CHOICE and not (
        parameter.choices and all(_CHOICE.fullmatch(choice) for choice in parameter.choices)
    ):
        raise BadVerbError(f"{name} needs choices of letters, digits and _./:@+=- that do not begin with a dash")
    if not 1 <= parameter.longest <= LONGEST_TEXT:
        raise BadVerbError(f"max_length of {name} must be from 1 to {LONGEST_TEXT}")
    if parameter.default is not None and not is_allowed(parameter, parameter.default):
        raise BadVerbError(f"the default of {name} is not allowed by its own type")


def _check_bounds(verb: Verb) -> None:
    if not timedelta(0) < verb.timeout <= LONGEST_TIMEOUT:
        raise BadVerbError("timeout must be at most 6h")
    if not 1 <= verb.output_limit <= 64 * 1024 * 1024:
        raise BadVerbError("output_limit must be at most 64 MiB")
    if not 0 <= verb.input_limit <= 1024 * 1024:
        raise BadVerbError("input_limit must be at most 1 MiB")


def _check_words(verb: Verb) -> None:
    if verb.runs_sql():
        if verb.parameters:
            raise BadVerbError("SQL takes no parameters; values would have to be quoted by guessing")
        return
    if len(verb.argv) > MOST_WORDS or any(not 0 < len(word) <= LONGEST_WORD for word in verb.argv):
        raise BadVerbError(f"argv has at most {MOST_WORDS} words of 1 to {LONGEST_WORD} characters")
    if not verb.argv[0].startswith("/") or _PLACE.search(verb.argv[0]):
        raise BadVerbError("argv begins with the absolute path of a program; no parameter chooses it")
    used: set[str] = set()
    for word in verb.argv:
        if not word.isprintable():
            raise BadVerbError("argv holds a character that cannot be shown")
        if set("{}") & set(_PLACE.sub("", word)):
            raise BadVerbError(f"{word!r}: a brace is only for {{parameter}}")
        used |= set(_PLACE.findall(word))
    declared = set(verb.parameters)
    for names, why in ((used - declared, "is not declared"), (declared - used, "is not used in argv")):
        for name in sorted(names):
            raise BadVerbError(f"the parameter {name[:40]!r} {why}")


def is_undone_by(verbs: Sequence[Verb] | Mapping[str, Verb], name: str) -> bool:
    """True when a verb of that name is declared as the rollback of another."""
    every = verbs.values() if isinstance(verbs, Mapping) else verbs
    return any(verb.rollback == name for verb in every)
