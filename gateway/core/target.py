"""What is protected: the catalogue's targets, and the levels of power on each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from gateway.core.bind_parameters import BindParameters
from gateway.core.budget import Budget
from gateway.core.dry_run import DryRun
from gateway.core.freeze import Freeze
from gateway.core.masking import Masks
from gateway.core.statement_rules import StatementRules
from gateway.core.verb import Verb


class Kind(StrEnum):
    POSTGRES = "postgres"
    SSH = "ssh"


@dataclass(frozen=True, slots=True)
class FileRule:
    """Whether files matching `path` (a glob: * within a component, ** across) may be moved that way; first match wins.

    `direction` is seen from the person: `download`, `upload` or `both`.
    """

    allow: bool
    path: str
    direction: str = "both"


@dataclass(frozen=True, slots=True)
class SshRules:
    """What a level lets through besides a shell. Forwards and agents are closed unless opened here.

    `commands`: globs of allowed exec command lines, empty for any. `files`: rules for sftp and scp, empty for any.
    `forwards` and `remote_forwards`: `host:port` globs of -L/-D destinations and -R listening addresses; a `/path`
    glob is a unix socket. `env`: names (globs) of variables that are passed on. `output_limit`: how many octets of each
    stream of a command without a terminal are recorded; of the rest only their number and digest.
    """

    shell: bool = True
    commands: tuple[str, ...] = ()
    files: tuple[FileRule, ...] = ()
    forwards: tuple[str, ...] = ()
    remote_forwards: tuple[str, ...] = ()
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    env: tuple[str, ...] = ("LANG", "LC_*", "TERM", "COLORTERM")
    idle_timeout: timedelta | None = None
    output_limit: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Level:
    """How much power on a target.

    `account` is the login used ON the target: the group role an ephemeral database role becomes a member of,
    or the Unix account that the certificate names. `rank` orders levels (0 is the least). `terms` is the digest of
    all that it allows, see `level_terms`; "" where no catalogue was read.
    """

    name: str
    account: str
    rank: int
    description: str = ""
    statement_timeout: timedelta | None = None
    idle_in_transaction_timeout: timedelta | None = None
    connection_limit: int = 20
    force_command: str | None = None
    ssh: SshRules = field(default_factory=SshRules)
    budget: Budget = field(default_factory=Budget)
    rules: StatementRules = field(default_factory=StatementRules)
    bind_parameters: BindParameters = BindParameters.FULL
    masks: Masks = field(default_factory=dict)
    dry_run: DryRun | None = None
    terms: str = ""
    replication: bool = False  # lets replication connections pass


@dataclass(frozen=True, slots=True)
class Target:
    """One database or server.

    `admin_dsn_file` (postgres) is a path to a file that holds the libpq URL with which roles are made;
    `host_keys` (ssh) are OpenSSH public key lines pinned for it. Both are empty for the other kind.
    """

    name: str
    kind: Kind
    service: str
    environment: str
    host: str
    port: int
    levels: Mapping[str, Level]
    owners: tuple[str, ...] = ()
    description: str = ""
    database: str = ""
    admin_dsn_file: str = ""
    tls: str = "verify-full"  # libpq sslmode of the upstream leg: verify-full | require | disable
    ca_file: str = ""
    host_keys: tuple[str, ...] = ()
    labels: frozenset[str] = field(default_factory=frozenset)
    verbs: Mapping[str, Verb] = field(default_factory=dict)

    def level(self, name: str) -> Level | None:
        """The level of that name, or None."""
        return self.levels.get(name)


@dataclass(frozen=True, slots=True)
class Service:
    """A service owns targets; its rota says who is on call, its owners whom to ask."""

    name: str
    owners: tuple[str, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The declared set of services and targets, with the digest of the text it was read from.

    `groups` name several targets that are deployed to in that order.
    """

    version: str
    services: Mapping[str, Service]
    targets: Mapping[str, Target]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    freezes: tuple[Freeze, ...] = ()
