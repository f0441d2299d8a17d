"""The catalogue of services and targets from one YAML file. A broken file never replaces a working catalogue."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from gateway.adapters.catalogue_statements import bind_parameters, budget, dry_run, masks, replication, statement_rules
from gateway.adapters.catalogue_verbs import ACCOUNT, freezes, groups, octets, verbs
from gateway.adapters.yaml_source import Place, SourceError, digest, document, read_bytes
from gateway.core.bind_parameters import BindParameters
from gateway.core.budget import Budget
from gateway.core.level_terms import terms_of
from gateway.core.obligation import BadObligationError, parse_duration
from gateway.core.statement_rules import StatementRules
from gateway.core.target import Catalogue, FileRule, Kind, Level, Service, SshRules, Target

_ENVIRONMENTS = {name: name for name in ("development", "staging", "production")}
_KINDS = {kind.value: kind for kind in Kind}
_TLS = {mode: mode for mode in ("verify-full", "require", "disable")}
_COMMON = {"description", "owners", "labels", "verbs"}
_NEEDED = {"kind", "service", "environment", "host", "port", "levels"}
_OF_KIND = {
    Kind.POSTGRES: ({"database", "admin_dsn_file"}, {"tls", "ca_file"}),
    Kind.SSH: ({"host_keys"}, set[str]()),
}
_LEVEL_KEYS = {
    Kind.POSTGRES: {
        "statement_timeout",
        "idle_in_transaction_timeout",
        "connection_limit",
        "budget",
        "rules",
        "bind_parameters",
        "masks",
        "dry_run",
        "replication",
    },
    Kind.SSH: {
        "force_command",
        "shell",
        "commands",
        "files",
        "forwards",
        "remote_forwards",
        "agent_forwarding",
        "x11_forwarding",
        "env",
        "idle_timeout",
        "output_limit",
    },
}
_MOST_OUTPUT = 64 * 1024 * 1024


class CatalogueFile:
    """The `CatalogueSource` port on a file. Thread-safe: the catalogue is swapped as a whole."""

    def __init__(self, path: Path) -> None:
        """Read; SourceError (a ValueError) with file, line and key when the file cannot be used."""
        self._path = path
        self._current = read_catalogue(read_bytes(path), path)

    def current(self) -> Catalogue:
        """The catalogue in force."""
        return self._current

    def reload(self) -> str | None:
        """Read again; None when a new or the same catalogue is in force, else why the old one stays."""
        try:
            content = read_bytes(self._path)
            if digest(content) != self._current.version:
                self._current = read_catalogue(content, self._path)
        except SourceError as error:
            return str(error)
        return None


def read_catalogue(content: bytes, path: Path) -> Catalogue:
    """Parse and judge; paths in the file are relative to its directory."""
    keys = document(content, path.name, {"services", "targets"}, {"groups", "freezes"})
    services = {name: _service(name, place) for name, place in keys["services"].named().items()}
    targets = {name: _target(name, place, services, path.parent) for name, place in keys["targets"].named().items()}
    grouped: dict[str, tuple[str, ...]] = {}
    if "groups" in keys:
        grouped, targets = groups(keys["groups"], targets)
    known = frozenset(services), frozenset(_ENVIRONMENTS)
    frozen = freezes(keys["freezes"], *known) if "freezes" in keys else ()
    return Catalogue(digest(content), services, targets, grouped, frozen)


def _service(name: str, place: Place) -> Service:
    keys = place.keys(set(), {"owners", "description"})
    return Service(name, _owners(keys), keys["description"].text() if "description" in keys else "")


def _owners(keys: Mapping[str, Place]) -> tuple[str, ...]:
    return keys["owners"].names() if "owners" in keys else ()


def _target(name: str, place: Place, services: Mapping[str, Service], home: Path) -> Target:
    if "%" in name or name != name.lower():
        raise place.wrong("names of targets are lower case")
    kind = place.mapping()["kind"].one_of(_KINDS) if "kind" in place.mapping() else None
    needed, optional = _OF_KIND[kind] if kind else (set[str](), set[str]())
    keys = place.keys(_NEEDED | needed, _COMMON | optional)
    kind = keys["kind"].one_of(_KINDS)
    service = keys["service"].one_of({known: known for known in services})
    return Target(
        name=name,
        kind=kind,
        service=service,
        environment=keys["environment"].one_of(_ENVIRONMENTS),
        host=_host(keys["host"]),
        port=keys["port"].number(1, 65535),
        levels=_levels(keys["levels"], kind),
        owners=_owners(keys) or services[service].owners,
        description=keys["description"].text() if "description" in keys else "",
        database=keys["database"].name() if "database" in keys else "",
        admin_dsn_file=_file(keys, "admin_dsn_file", home),
        tls=_tls(keys),
        ca_file=_file(keys, "ca_file", home),
        host_keys=tuple(item.parsed(_host_key) for item in _some(keys["host_keys"])) if "host_keys" in keys else (),
        labels=frozenset(keys["labels"].names()) if "labels" in keys else frozenset(),
        verbs=verbs(keys["verbs"], kind) if "verbs" in keys else {},
    )


def _some(place: Place) -> tuple[Place, ...]:
    items = place.items()
    if not items:
        raise place.wrong("must not be empty")
    return items


def _host(place: Place) -> str:
    host = place.text()
    try:
        return str(ip_address(host))
    except ValueError:
        if len(host) > 253 or not all(
            re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", p) for p in host.split(".")
        ):
            raise place.wrong(f"{host[:60]!r} is not a host name or address") from None
        return host


def _tls(keys: Mapping[str, Place]) -> str:
    """The sslmode of libpq. Without a certificate to compare, anybody between can read: only on loopback."""
    mode = keys["tls"].one_of(_TLS) if "tls" in keys else "verify-full"
    host = keys["host"].text()
    if mode != "verify-full" and host != "localhost" and not _is_loopback(host):
        raise keys["tls"].wrong(f"{mode} is for loopback addresses only; {host} needs verify-full")
    return mode


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _file(keys: Mapping[str, Place], key: str, home: Path) -> str:
    """A path, relative to the catalogue. Whether the file is there is found out when it is needed."""
    if key not in keys:
        return ""
    text = keys[key].text()
    if not text:
        raise keys[key].wrong("must not be empty")
    return str(home / Path(text).expanduser())


def _host_key(text: str) -> str:
    """An OpenSSH public key line `[cert-authority] type base64 [comment]`; ValueError otherwise."""
    key = text.strip().removeprefix("cert-authority ").strip()
    try:
        load_ssh_public_key(key.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not an OpenSSH public key line such as 'ssh-ed25519 AAAA…'") from None
    if key != text.strip() and not key.startswith(("ssh-ed25519 ", "ecdsa-sha2-")):  # RSA: it may sign with SHA-1
        raise ValueError("names an authority for hosts that is neither Ed25519 nor ECDSA")
    return text.strip()


def _levels(place: Place, kind: Kind) -> dict[str, Level]:
    found = place.named()
    if not found:
        raise place.wrong("a target needs at least one level")
    return {name: _level(name, item, kind, rank) for rank, (name, item) in enumerate(found.items())}


def _level(name: str, place: Place, kind: Kind, rank: int) -> Level:
    keys = place.keys({"account"}, {"description", "rank"} | _LEVEL_KEYS[kind])
    account = keys["account"].text()
    if not ACCOUNT.fullmatch(account):
        raise keys["account"].wrong(f"{account[:60]!r} is not the name of a login on the target")
    rules = statement_rules(keys["rules"]) if "rules" in keys else StatementRules()
    level = Level(
        name=name,
        account=account,
        rank=keys["rank"].number(0, 100) if "rank" in keys else rank,
        description=keys["description"].text() if "description" in keys else "",
        statement_timeout=_duration(keys, "statement_timeout"),
        idle_in_transaction_timeout=_duration(keys, "idle_in_transaction_timeout"),
        connection_limit=keys["connection_limit"].number(1, 1000) if "connection_limit" in keys else 20,
        force_command=keys["force_command"].text() if "force_command" in keys else None,
        ssh=_ssh_rules(keys),
        budget=budget(keys["budget"]) if "budget" in keys else Budget(),
        rules=rules,
        masks=masks(keys["masks"], rules) if "masks" in keys else {},
        dry_run=dry_run(keys["dry_run"]) if "dry_run" in keys else None,
        bind_parameters=bind_parameters(keys["bind_parameters"]) if "bind_parameters" in keys else BindParameters.FULL,
        replication=replication(keys) if "replication" in keys else False,
    )
    return replace(level, terms=terms_of(level))


def _ssh_rules(keys: Mapping[str, Place]) -> SshRules:
    default = SshRules()
    return SshRules(
        shell=keys["shell"].truth() if "shell" in keys else default.shell,
        commands=_texts(keys, "commands"),
        files=tuple(_file_rule(item) for item in keys["files"].items()) if "files" in keys else (),
        forwards=_texts(keys, "forwards"),
        remote_forwards=_texts(keys, "remote_forwards"),
        agent_forwarding=keys["agent_forwarding"].truth() if "agent_forwarding" in keys else False,
        x11_forwarding=keys["x11_forwarding"].truth() if "x11_forwarding" in keys else False,
        env=_texts(keys, "env") or default.env,
        idle_timeout=_duration(keys, "idle_timeout"),
        output_limit=_output_limit(keys["output_limit"]) if "output_limit" in keys else default.output_limit,
    )


def _output_limit(place: Place) -> int:
    limit = place.parsed(octets)
    if limit > _MOST_OUTPUT:
        raise place.wrong("must be at most 64M")
    return limit


def _file_rule(place: Place) -> FileRule:
    keys = place.keys({"path"}, {"effect", "direction"})
    allow = keys["effect"].one_of({"allow": True, "deny": False}) if "effect" in keys else True
    ways = {way: way for way in ("download", "upload", "both")}
    return FileRule(allow, keys["path"].text(), keys["direction"].one_of(ways) if "direction" in keys else "both")


def _texts(keys: Mapping[str, Place], key: str) -> tuple[str, ...]:
    return tuple(item.text() for item in keys[key].items()) if key in keys else ()


def _duration(keys: Mapping[str, Place], key: str) -> timedelta | None:
    if key not in keys:
        return None
    try:
        return parse_duration(keys[key].text())
    except BadObligationError as error:
        raise keys[key].wrong(str(error)) from None
