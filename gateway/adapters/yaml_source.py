"""YAML as people write it by hand, read strictly: bounded, no aliases, no tags, no key twice, lines in every error.

Aliases are refused because a few lines of them expand to gigabytes ("billion laughs", CWE-776), tags because they
make objects (CWE-502). Everything is a string, a number, a truth, a list or a mapping that knows where it stands.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import yaml

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_T = TypeVar("_T")


class SourceError(ValueError):
    """A file that cannot be used; the text is one or more lines `file:line: key: what is wrong`."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses what `safe_load` lets pass: anchors, aliases, explicit tags, duplicate keys, deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the base class, watched."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="aliases and anchors are not used here", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="tags are not used here", problem_mark=event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The file, bounded; SourceError when it cannot be had."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SourceError(f"{path.name}: {error.strerror}") from None
    if len(content) > limit:
        raise SourceError(f"{path.name}: larger than {limit // 1024} KiB")
    return content


def digest(content: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Place:
    """One value of the file: where it stands, and readers that say so when it is not what it should be."""

    file: str
    path: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """Counted from 1."""
        return int(self.node.start_mark.line) + 1

    def wrong(self, why: str) -> SourceError:
        """An error that points here."""
        return SourceError(
            f"{self.file}:{self.line}: {self.path}: {why}" if self.path else f"{self.file}:{self.line}: {why}"
        )

    def keys(self, required: frozenset[str] | set[str], optional: frozenset[str] | set[str]) -> dict[str, "Place"]:
        """The mapping's values by key, of which the required are there and no other than the optional besides."""
        found = self.mapping()
        for key, value in found.items():
            if key not in required and key not in optional:
                raise value.wrong(f"unknown key; known: {', '.join(sorted(required | optional))}")
        for key in sorted(required):
            if key not in found:
                raise self.wrong(f"{key} is missing")
        return found

    def mapping(self) -> dict[str, "Place"]:
        """The values by key."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong("must be a mapping (key: value)")
        found: dict[str, Place] = {}
        for key_node, value_node in self.node.value:
            key = Place(self.file, self.path, key_node).text()
            place = Place(self.file, f"{self.path}.{key}" if self.path else key, value_node)
            if key in found:
                raise SourceError(f"{self.file}:{key_node.start_mark.line + 1}: {place.path}: appears twice")
            found[key] = place
        return found

    def is_mapping(self) -> bool:
        """True for keys with values, whatever they are."""
        return isinstance(self.node, yaml.MappingNode)

    def named(self) -> dict[str, "Place"]:
        """As `mapping`, with keys that are names."""
        found = self.mapping()
        for key, value in found.items():
            if not NAME.fullmatch(key):
                raise value.wrong(f"{key!r} is not a name (letters, digits, dot, dash, underscore; at most 63)")
        return found

    def items(self) -> tuple["Place", ...]:
        """The entries of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong("must be a list")
        return tuple(Place(self.file, f"{self.path}[{i}]", node) for i, node in enumerate(self.node.value))

    def text(self) -> str:
        """A string; what YAML reads as a number or a date stays the text as written."""
        if not isinstance(self.node, yaml.ScalarNode) or self._is("null"):
            raise self.wrong("must be text")
        value = str(self.node.value)
        if len(value) > 10_000 or not all(c.isprintable() or c in "\n\t" for c in value):
            raise self.wrong("holds characters that cannot be shown, or is too long")
        return value

    def name(self) -> str:
        """A name: letters, digits, dot, dash, underscore."""
        value = self.text()
        if not NAME.fullmatch(value):
            raise self.wrong(f"{value!r} is not a name (letters, digits, dot, dash, underscore; at most 63)")
        return value

    def names(self) -> tuple[str, ...]:
        """A list of names."""
        return tuple(item.name() for item in self.items())

    def one_of(self, choices: Mapping[str, _T]) -> _T:
        """A word out of a few."""
        value = self.text()
        if value not in choices:
            raise self.wrong(f"must be {' or '.join(choices)}, not {value!r}")
        return choices[value]

    def number(self, least: int, most: int) -> int:
        """A whole number within bounds, both included."""
        text = self.node.value if isinstance(self.node, yaml.ScalarNode) and self._is("int") else ""
        if not re.fullmatch(r"-?[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise self.wrong(f"must be a number from {least} to {most}")
        return int(text)

    def truth(self) -> bool:
        """True or false."""
        if not self._is("bool"):
            raise self.wrong("must be true or false")
        return str(self.node.value).lower() in ("true", "yes", "on")

    def parsed(self, parse: Callable[[str], _T]) -> _T:
        """What `parse` makes of the text; its ValueError becomes ours."""
        try:
            return parse(self.text())
        except SourceError:
            raise
        except (ValueError, OverflowError) as error:
            raise self.wrong(str(error)) from None

    def instant(self) -> datetime:
        """An instant with its offset from UTC, as in 2026-03-01T09:00:00Z; UTC."""
        return self.parsed(_instant)

    def day(self) -> date:
        """A date, as in 2026-03-01."""
        return self.parsed(date.fromisoformat)

    def is_empty(self) -> bool:
        """True for nothing after the colon."""
        return self._is("null")

    def _is(self, kind: str) -> bool:
        return str(self.node.tag) == f"tag:yaml.org,2002:{kind}"


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} needs its offset from UTC, as in 2026-03-01T09:00:00Z")
    return at.astimezone(UTC)


def parse(content: bytes, file: str) -> Place:
    """The one document in `content`; SourceError with file and line."""
    try:
        loader = _StrictLoader(content.decode())
    except UnicodeDecodeError:
        raise SourceError(f"{file}: not UTF-8") from None
    except yaml.YAMLError as error:
        raise SourceError(f"{file}: {_first_line(error)}") from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SourceError(f"{file}{line}: {error.problem or _first_line(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SourceError(f"{file}: {_first_line(error)}") from None
    finally:
        loader.dispose()
    if node is None:
        raise SourceError(f"{file}: empty")
    return Place(file, "", node)


def document(content: bytes, file: str, required: set[str], optional: set[str]) -> dict[str, Place]:
    """The top-level keys of a file of `version: 1`."""
    root = parse(content, file)
    keys = root.keys(required | {"version"}, optional)
    keys["version"].number(1, 1)
    return keys


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class WatchedFile(Generic[_T]):
    """A file that is parsed anew only when it has changed. Thread-safe."""

    def __init__(self, path: Path, parse: Callable[[bytes, str], _T], limit: int = MAX_BYTES) -> None:
        """`parse` takes the bytes and the file's name, and raises SourceError."""
        self._path = path
        self._parse = parse
        self._limit = limit
        self._lock = Lock()
        self._seen: tuple[int, ...] = ()
        self._found: _T | SourceError | None = None

    def get(self) -> _T:
        """What the file says now; SourceError as long as it is missing or wrong."""
        with self._lock:
            mark = self._mark()
            if self._found is None or mark != self._seen:
                self._found = self._read()
                self._seen = mark
            found = self._found
        if isinstance(found, SourceError):
            raise SourceError(str(found))
        return found

    def _mark(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError as error:
            raise SourceError(f"{self._path.name}: {error.strerror}") from None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def _read(self) -> _T | SourceError:
        try:
            return self._parse(read_bytes(self._path, self._limit), self._path.name)
        except SourceError as error:
            return error
