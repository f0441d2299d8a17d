"""Trust policies from the YAML files of one directory. A broken file never replaces a working set."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from gateway.adapters.jose import KEY_TYPES, demand_safe
from gateway.adapters.yaml_source import Place, SourceError, document, read_bytes
from gateway.core.deploy_token import LONGEST_VALUE, Right
from gateway.core.obligation import BadObligationError, parse_duration
from gateway.core.trust import Issuer, IssuerKind, TrustPolicies, TrustRule, folded, spelled
from gateway.core.trust_lint import ERROR, Finding, lint
from gateway.core.trust_match import terms_of
from gateway.core.trust_shapes import FOLDED, GITHUB_FACTS, GITHUB_IDENTITY, GITLAB_FACTS, GITLAB_IDENTITY

MOST_FILES = 100
_LONGEST_LIFE = timedelta(hours=24)
_KINDS = {kind.value: kind for kind in IssuerKind}
_FACTS = {"repository", "ref", "commit", "run", "environment", "actor"}
_ISSUER_KEYS = {
    "algorithms", "jwks_url", "jwks_file", "longest_token", "token_life", "exchanges_per_run",
}  # fmt: skip
_OF_KIND = {
    IssuerKind.GITHUB: set[str](),
    IssuerKind.GITLAB: {"fork_claims"},
    IssuerKind.OIDC: {"identity", "facts"},
}
_ALGORITHMS = {name: name for name in KEY_TYPES}
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class TrustDirectory:
    """The `TrustSource` port on `policies/trust/*.yaml`. Thread-safe: the set is swapped as a whole."""

    def __init__(self, directory: Path) -> None:
        """Read; SourceError (a ValueError) with file and line when it cannot be used. No directory is an empty set."""
        self._directory = directory
        self._current = load(directory)

    def current(self) -> TrustPolicies:
        """The set in force."""
        return self._current

    def reload(self) -> str | None:
        """Read again; None when a new or the same set is in force, else why the old one stays."""
        try:
            files = _files(self._directory)
            if _digest(files) != self._current.digest:
                self._current = _judged(_parsed(files, self._directory))
        except SourceError as error:
            return str(error)
        return None


def load(directory: Path) -> TrustPolicies:
    """The set of a directory; SourceError when a file cannot be read, or has an error that `gw trust check` names."""
    return _judged(parse(directory))


def parse(directory: Path) -> TrustPolicies:
    """As `load`, whatever the lint says."""
    return _parsed(_files(directory), directory)


def _judged(policies: TrustPolicies) -> TrustPolicies:
    errors = [found for found in lint(policies) if found.severity == ERROR]
    if errors:
        raise SourceError("\n".join(_told(found) for found in errors))
    return policies


def _told(found: Finding) -> str:
    return f"{found.place}: {found.subject}: {found.message} ({found.code})"


# ---------------------------------------------------------------- files


def _files(directory: Path) -> dict[str, bytes]:
    if not directory.exists():
        return {}
    paths = sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml"))
    if len(paths) > MOST_FILES:
        raise SourceError(f"{directory.name}: more than {MOST_FILES} files")
    return {path.name: read_bytes(path) for path in paths}


def _digest(files: Mapping[str, bytes]) -> str:
    """Of names and contents, each with its length, so that no two sets share one."""
    total = sha256()
    for name, content in sorted(files.items()):
        total.update(f"{len(name.encode())}:{name}{len(content)}:".encode() + content)
    return total.hexdigest()


def _parsed(files: Mapping[str, bytes], directory: Path) -> TrustPolicies:
    documents = [document(content, name, set(), {"issuers", "rules"}) for name, content in sorted(files.items())]
    issuers: dict[str, Issuer] = {}
    for place in (keys["issuers"] for keys in documents if "issuers" in keys):
        for name, item in _fresh(place, issuers):
            issuers[name] = _issuer(name, item, directory)
    rules: dict[str, TrustRule] = {}
    for place in (keys["rules"] for keys in documents if "rules" in keys):
        for name, item in _fresh(place, rules):
            rules[name] = _rule(name, item, issuers)
    return TrustPolicies(_digest(files), issuers, rules)


def _fresh(place: Place, known: Mapping[str, object]) -> list[tuple[str, Place]]:
    for name, item in place.named().items():
        if name in known:
            raise item.wrong(f"{name} is declared in another file already")
    return list(place.named().items())


# ---------------------------------------------------------------- issuers


def _issuer(name: str, place: Place, directory: Path) -> Issuer:
    found = place.mapping()
    kind = found["kind"].one_of(_KINDS) if "kind" in found else None
    keys = place.keys({"kind", "issuer", "audience"}, _ISSUER_KEYS | (_OF_KIND[kind] if kind else set()))
    kind = keys["kind"].one_of(_KINDS)
    if "jwks_url" in keys and "jwks_file" in keys:
        raise keys["jwks_file"].wrong("there is a jwks_url already")
    identity, facts = _names(kind, keys)
    default_life = timedelta(minutes=15) if kind is not IssuerKind.GITLAB else None  # one token per job there
    life = keys.get("token_life")
    return Issuer(
        name=name,
        kind=kind,
        url=keys["issuer"].parsed(demand_safe),
        audience=_short(keys["audience"]),
        algorithms=_algorithms(keys),
        jwks_url=keys["jwks_url"].parsed(demand_safe) if "jwks_url" in keys else "",
        jwks_file=str(directory / keys["jwks_file"].text()) if "jwks_file" in keys else "",
        identity=identity,
        facts=facts,
        longest_token=_duration(keys["longest_token"]) if "longest_token" in keys else timedelta(hours=1),
        token_life=default_life if life is None else (None if life.text() == "job" else _duration(life)),
        exchanges_per_run=keys["exchanges_per_run"].number(1, 1000) if "exchanges_per_run" in keys else 20,
        has_fork_claims=keys["fork_claims"].truth() if "fork_claims" in keys else True,
        place=f"{place.file}:{place.line}",
    )


def _names(kind: IssuerKind, keys: Mapping[str, Place]) -> tuple[tuple[str, ...], Mapping[str, tuple[str, ...]]]:
    if kind is IssuerKind.GITHUB:
        return GITHUB_IDENTITY, GITHUB_FACTS
    if kind is IssuerKind.GITLAB:
        return GITLAB_IDENTITY, GITLAB_FACTS
    identity = tuple(_short(item) for item in keys["identity"].items()) if "identity" in keys else ("sub",)
    if not identity:
        raise keys["identity"].wrong("must not be empty")
    facts = keys["facts"].keys(set(), _FACTS) if "facts" in keys else {}
    return identity, {fact: tuple(_short(item) for item in _one_or_more(place)) for fact, place in facts.items()}


def _algorithms(keys: Mapping[str, Place]) -> frozenset[str]:
    if "algorithms" not in keys:
        return frozenset({"RS256"})
    return frozenset(item.one_of(_ALGORITHMS) for item in _some(keys["algorithms"]))


# ---------------------------------------------------------------- rules


def _rule(name: str, place: Place, issuers: Mapping[str, Issuer]) -> TrustRule:
    keys = place.keys({"issuer", "claims", "allow"}, {"description"})
    issuer = keys["issuer"].one_of(issuers)
    claims = {claim: _values(issuer, claim, item) for claim, item in keys["claims"].mapping().items()}
    if not claims:
        raise keys["claims"].wrong("must not be empty: every token of the issuer would do")
    rights = frozenset(right for item in _some(keys["allow"]) for right in _allowed(item))
    description = keys["description"].text() if "description" in keys else ""
    rule = TrustRule(name, issuer.name, claims, rights, description, f"{place.file}:{place.line}")
    return replace(rule, terms=terms_of(issuer, rule))


def _allowed(place: Place) -> list[Right]:
    keys = place.keys({"targets", "verbs"}, set())
    verbs = [item.text() for item in _some(keys["verbs"])]
    for verb, item in zip(verbs, keys["verbs"].items(), strict=True):
        if not _WORD.fullmatch(verb):
            raise item.wrong(f"{verb[:40]!r} is not a verb (lower-case letters, digits, dash, underscore)")
    return [Right(target.name(), verb) for target in _some(keys["targets"]) for verb in verbs]


def _values(issuer: Issuer, claim: str, place: Place) -> frozenset[str]:
    """GitHub and GitLab send text alone; of other issuers a number or a truth is one, unless it stands in quotes."""
    items = _one_or_more(place)
    if issuer.kind is IssuerKind.OIDC:
        return frozenset(spelled(_typed(item)) for item in items)
    is_folded = claim in FOLDED[issuer.kind]
    return frozenset(spelled(folded(_short(item)) if is_folded else _short(item)) for item in items)


def _typed(place: Place) -> str | int | bool:
    kind = str(place.node.tag).rpartition(":")[2]
    if kind == "bool":
        return place.truth()
    return int(place.text()) if kind == "int" and place.text().lstrip("-").isdecimal() else _short(place)


def _one_or_more(place: Place) -> tuple[Place, ...]:
    return _some(place) if str(place.node.tag).endswith(":seq") else (place,)


def _some(place: Place) -> tuple[Place, ...]:
    items = place.items()
    if not items:
        raise place.wrong("must not be empty")
    return items


def _short(place: Place) -> str:
    text = place.text()
    if not 0 < len(text) <= LONGEST_VALUE or not text.isprintable():
        raise place.wrong(f"must be text of 1 to {LONGEST_VALUE} characters on one line")
    return text


def _duration(place: Place) -> timedelta:
    try:
        duration = parse_duration(place.text())
    except BadObligationError as error:
        raise place.wrong(str(error)) from None
    if not timedelta(minutes=1) <= duration <= _LONGEST_LIFE:
        raise place.wrong("must be between 1m and 24h")
    return duration
