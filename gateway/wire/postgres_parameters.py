"""Which startup parameters go on to the target, each decided by its name.

They are relayed faithfully: a gateway that swallows `options`, `DateStyle` or `TimeZone` breaks clients. What names an
identity or another protocol is refused: the identity on the target is the gateway's to choose.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_OWN = frozenset({"user", "database"})
_IDENTITY = frozenset({"role", "session_authorization"})
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off", "of", "fa", "fal", "fals"})
MAX_OPTIONS = 4_096


@dataclass(frozen=True, slots=True)
class ParameterRefused:
    """One parameter that may not be given here, and why."""

    name: str
    why: str


def relayed(parameters: Mapping[str, str]) -> dict[str, str] | ParameterRefused:
    """What the target is told besides the gateway's own role and database, or the first parameter that is refused.

    Whether replication may be asked for says the level (`replicates`).
    """
    kept = {}
    for name, value in parameters.items():
        if name in _OWN:
            continue
        plain = _setting(name)
        if plain in _IDENTITY:
            return ParameterRefused(name, "the gateway chooses the role on the target")
        if plain == "replication" and value.lower() in _FALSE:
            continue
        if plain == "options":
            wrong = _wrong_option(value)
            if wrong is not None:
                return wrong
        kept[name] = value
    return kept


def replicates(parameters: Mapping[str, str]) -> bool:
    """True when a replication connection is asked for. For parameters that `relayed` let through."""
    return any(_setting(name) == "replication" for name in parameters)


def settings_in(parameters: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every setting with its value, those in `options`, too. For parameters that `relayed` let through."""
    found = []
    for name, value in parameters.items():
        if _setting(name) == "options":
            settings = (word.removeprefix("-c").removeprefix("--").partition("=") for word in _split(value))
            found += [(_setting(each), given) for each, equals, given in settings if equals]
        else:
            found.append((_setting(name), value))
    return found


def client_encodings(parameters: Mapping[str, str]) -> list[str]:
    """Every value that is given for client_encoding."""
    return [value for name, value in settings_in(parameters) if name == "client_encoding"]


def _wrong_option(text: str) -> ParameterRefused | None:
    """Only settings (-c name=value, --name=value) may be given, and none that names an identity."""
    if len(text) > MAX_OPTIONS:
        return ParameterRefused("options", "it is too long")
    words = iter(_split(text))
    for word in words:
        if word == "-c":
            setting = next(words, "")
        elif word.startswith(("-c", "--")):
            setting = word[2:]
        else:
            return ParameterRefused("options", "only settings of the form -c name=value may be given")
        name, equals, _ = setting.partition("=")
        if not equals:
            return ParameterRefused("options", "a setting has no value")
        if _setting(name) in _IDENTITY:
            return ParameterRefused("options", "the gateway chooses the role on the target")
    return None


def _setting(name: str) -> str:
    # ParseLongOption turns dashes into underscores, and setting names know no case (guc_name_compare).
    return name.strip().lower().replace("-", "_")


def _split(text: str) -> list[str]:
    """Words as pg_split_opts makes them: white space separates, a backslash takes the next character literally."""
    words: list[str] = []
    word: list[str] | None = None
    escaped = False
    for char in text:
        if escaped or (char != "\\" and char not in " \t\n\v\f\r"):
            word = [*(word or []), char]
            escaped = False
        elif char == "\\":
            word, escaped = word or [], True
        elif word is not None:
            words.append("".join(word))
            word = None
    if word is not None:
        words.append("".join(word))
    return words
