"""Read a directory of Cedar policies into one set, or say with file and line why not.

Stricter than Cedar itself: Cedar skips a policy whose condition errors, even a `forbid`, and then allows. So a
condition that could error at all does not load, and whatever nobody would notice missing (an `@id`, a duty with a
typing mistake) is refused here instead of being ignored later.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import cedarpy
from cedarpy import pst

from gateway.core.obligation import DUTIES, BadObligationError, Obligations, parse_obligations

SCHEMA_FILE = "schema.cedarschema"
MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 100
# Integer arithmetic overflows, and with it the whole policy is skipped (Cedar spec, "evaluation errors").
_CAN_OVERFLOW = frozenset({"add", "sub", "mul", "neg", "offset", "duration_since"})
# The parser recurses without a guard: a thousand brackets or some thousand operators end the process (tried with
# cedarpy 4.12). Three hundred of either are safe in any thread, so that much and no more is ever given to it.
MAX_NESTING = 32
MAX_TOKENS = 500
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|;|\n|[^"/;\n]+|.', re.DOTALL)


class PolicyLoadError(ValueError):
    """The files hold no usable policy set; the text has one line per fault, each with file and line."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy as loaded: its stable name, what it does, where it stands, which duties it carries."""

    id: str
    is_forbid: bool
    description: str
    place: str
    obligations: Obligations


@dataclass(frozen=True, slots=True)
class LoadedPolicies:
    """Parsed handles, ready for many questions. `rules` is keyed by Cedar's positional id (`policy3`)."""

    schema: cedarpy.Schema
    policies: cedarpy.PolicySet
    base: cedarpy.Entities
    rules: Mapping[str, Rule]
    roles: frozenset[str]
    digest: str


@dataclass(frozen=True, slots=True)
class _Statement:
    place: str
    text: str


def read_files(directory: Path) -> dict[str, str]:
    """File name -> text of the schema and every policy; PolicyLoadError when that cannot be had."""
    try:
        names = sorted(p.name for p in directory.iterdir() if p.suffix == ".cedar")
    except OSError as error:
        raise PolicyLoadError(f"{directory}: {error.strerror}") from None
    if not names:
        raise PolicyLoadError(f"{directory}: there are no *.cedar files")
    if len(names) > MAX_FILES:
        raise PolicyLoadError(f"{directory}: more than {MAX_FILES} policy files")
    return {name: _read(directory / name) for name in (SCHEMA_FILE, *names)}


def digest_of(files: Mapping[str, str]) -> str:
    """SHA-256 (hex) over names and texts, each preceded by its length so that no two sets collide."""
    digest = hashlib.sha256()
    for name, text in files.items():
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def load(files: Mapping[str, str]) -> LoadedPolicies:
    """Parse, validate against the schema, read the duties; PolicyLoadError lists every fault found."""
    schema = _schema(files[SCHEMA_FILE])
    statements = [s for name, text in files.items() if name != SCHEMA_FILE for s in _statements(name, text)]
    if not statements:
        raise PolicyLoadError("there is no policy in any file")
    faults: list[str] = []
    templates = [_template(statement, faults) for statement in statements]
    _refuse_twins(statements, templates, faults)
    if faults:
        raise PolicyLoadError("\n".join(faults))
    return _assemble(files, schema, statements, [t for t in templates if t is not None])


def _assemble(
    files: Mapping[str, str], schema: cedarpy.Schema, statements: list[_Statement], templates: list[pst.Template]
) -> LoadedPolicies:
    text = "\n".join(s.text for s in statements)
    policies = cedarpy.PolicySet.from_str(text)
    _validate(text, schema, statements)
    # Cedar numbers policies by position; the names are ours, so make sure that both count alike.
    numbered = policies.to_pst().static_policies
    names = [dict(numbered[f"policy{i}"].annotations).get("id") for i in range(len(numbered))]
    if names != [t.annotations["id"] for t in templates]:
        raise PolicyLoadError("the policies could not be told apart; check quotes and semicolons")
    rules = {f"policy{i}": _rule(s, t) for i, (s, t) in enumerate(zip(statements, templates, strict=True))}
    roles = frozenset(uid.id for t in templates for uid in pst.entity_uids(t) if str(uid.type) == "Role")
    base = cedarpy.Entities.from_json_str('[{"uid":{"type":"Gateway","id":"gateway"},"attrs":{},"parents":[]}]', schema)
    return LoadedPolicies(schema, policies, base, rules, roles, digest_of(files))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyLoadError(f"{path.name}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise PolicyLoadError(f"{path.name}: larger than {MAX_FILE_BYTES // 1024} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PolicyLoadError(f"{path.name}:{line}: not UTF-8") from None


def _schema(text: str) -> cedarpy.Schema:
    if _nesting(_TOKEN.findall(text), "<[{(", ">]})") > MAX_NESTING:
        raise PolicyLoadError(f"{SCHEMA_FILE}: nested deeper than {MAX_NESTING} levels")
    try:
        return cedarpy.Schema.from_str(text)
    except ValueError as error:
        raise PolicyLoadError(f"{SCHEMA_FILE}: {error}") from None


def _nesting(tokens: list[str], opening: str, closing: str) -> int:
    """How deep brackets go, outside of strings and comments."""
    deepest = depth = 0
    for token in tokens:
        if token.startswith(('"', "//")):
            continue
        for character in token:
            depth += (character in opening) - (character in closing)
            deepest = max(deepest, depth)
    return deepest


def _is_too_complex(text: str) -> bool:
    tokens = _TOKEN.findall(text)
    words = sum(len(re.findall(r"\w+|[^\w\s]", t)) for t in tokens if not t.startswith("//") and t[0] != '"')
    strings = sum(t.startswith('"') for t in tokens)
    return words + strings > MAX_TOKENS or _nesting(tokens, "([{", ")]}") > MAX_NESTING


def _statements(name: str, text: str) -> Iterator[_Statement]:
    """Cut a file at its top-level semicolons. A wrong cut fails to parse, so it can only refuse, never allow."""
    line, start, parts = 1, 0, list[str]()
    for piece in _TOKEN.findall(text):
        is_blank = piece.isspace() or piece.startswith("//")
        if not parts and not is_blank:
            start = line
        if parts or not is_blank:
            parts.append(piece)
        line += piece.count("\n")
        if piece == ";":
            yield _Statement(f"{name}:{start}", "".join(parts))
            parts = []
    if parts:
        yield _Statement(f"{name}:{start}", "".join(parts))


def _template(statement: _Statement, faults: list[str]) -> pst.Template | None:
    """One statement as typed nodes; None, and a fault, when it is not exactly one usable policy."""
    if _is_too_complex(statement.text):
        faults.append(f"{statement.place}: longer than {MAX_TOKENS} words or nested deeper than {MAX_NESTING} levels")
        return None
    try:
        parsed = cedarpy.PolicySet.from_str(statement.text).to_pst()
    except ValueError as error:
        faults.append(f"{statement.place}: {error}")
        return None
    if parsed.templates or len(parsed.static_policies) != 1:
        faults.append(f"{statement.place}: expected one policy without ?principal or ?resource")
        return None
    template = next(iter(parsed.static_policies.values()))
    faults.extend(f"{statement.place}: {fault}" for fault in _faults(template))
    return template


def _faults(template: pst.Template) -> Iterator[str]:
    annotations = template.annotations
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", annotations.get("id", "")):
        yield 'every policy needs an @id("…") of lower-case letters, digits and dashes'
    try:
        parse_obligations(annotations)
    except BadObligationError as error:
        yield str(error)
    useless = sorted(DUTIES & set(annotations))
    if template.effect == "forbid" and useless:
        yield f"@{useless[0]} on a forbid has no effect"
    for clause in template.clauses:
        yield from _walk(clause, _why_it_can_error)


def _why_it_can_error(node: object) -> str | None:
    if isinstance(node, pst.BinaryOp | pst.UnaryOp) and node.op in _CAN_OVERFLOW:
        return f"arithmetic ({node.op}) can overflow, and Cedar skips a policy that errors"
    if isinstance(node, pst.GetAttr) and not isinstance(node.base, pst.Var):
        return (
            f"attribute {node.attr!r} is read from an entity that may be unknown, and Cedar skips a policy that errors"
        )
    return None


def _walk(node: Any, judge: Callable[[object], str | None]) -> Iterator[str]:
    """Every sentence that `judge` has for a node of the tree (expressions are at most 100 levels deep)."""
    sentence = judge(node)
    if sentence:
        yield sentence
    if is_dataclass(node):
        children: tuple[Any, ...] = tuple(getattr(node, field.name) for field in fields(node))
    elif isinstance(node, Mapping):
        children = tuple(node.values())
    elif isinstance(node, tuple | frozenset | list):
        children = tuple(node)
    else:
        return
    for child in children:
        yield from _walk(child, judge)


def _refuse_twins(statements: list[_Statement], templates: list[pst.Template | None], faults: list[str]) -> None:
    seen: dict[str, str] = {}
    for statement, template in zip(statements, templates, strict=True):
        name = template.annotations.get("id") if template else None
        if name and name in seen:
            faults.append(f'{statement.place}: @id("{name}") is taken already by {seen[name]}')
        elif name:
            seen[name] = statement.place


def _validate(text: str, schema: cedarpy.Schema, statements: list[_Statement]) -> None:
    result = cedarpy.validate_policies(text, schema)
    if result.validation_passed and not result.errors:
        return
    places = {f"policy{i}": s.place for i, s in enumerate(statements)}
    faults = [f"{places.get(e.policy_id, 'policies')}: {e.error}" for e in result.errors]
    raise PolicyLoadError("\n".join(faults) or "the policies do not validate")


def _rule(statement: _Statement, template: pst.Template) -> Rule:
    return Rule(
        id=template.annotations["id"],
        is_forbid=template.effect == "forbid",
        description=template.annotations.get("description", ""),
        place=statement.place,
        obligations=parse_obligations(template.annotations),
    )
