"""What the use cases need from outside. Adapters implement these; fakes in tests/fakes do too.

Everything here is synchronous and thread-safe: an asyncio edge calls use cases through an executor.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from gateway.app.commit_ports import HeldCommits
from gateway.app.deploy_ports import Deploys
from gateway.app.passkey_ports import Passkeys
from gateway.app.ports_people import ApiTokens, ProviderSessions, Provisioning
from gateway.app.statement_ports import Statement
from gateway.core.decision import Decision, Query
from gateway.core.event import Event
from gateway.core.grant import Grant, Review
from gateway.core.ids import Prefix
from gateway.core.incident import Incident
from gateway.core.obligation import Record
from gateway.core.principal import User
from gateway.core.request import Request, RequestState
from gateway.core.rota import Shift
from gateway.core.session import Cancel, EndReason, Running, Session
from gateway.core.target import Catalogue, Level, Target
from gateway.core.window import Window

# ---------------------------------------------------------------- time and chance


class Clock(Protocol):
    def now(self) -> datetime:
        """The present, timezone-aware UTC."""
        ...


class Ids(Protocol):
    def new(self, prefix: Prefix) -> str:
        """A fresh identifier."""
        ...

    def secret(self) -> str:
        """256 bits from the system's generator, base64url without padding."""
        ...


# ---------------------------------------------------------------- stored state


@dataclass(frozen=True, slots=True)
class Credential:
    """A bearer secret, known only by the SHA-256 hex of its text.

    `purpose`: `cli` (API bearer), `ticket` (database door), `device` (device code being confirmed),
    `web` (browser session), `login` (OIDC state in flight), `deploy-keys` (no secret:
    see `compare_deploy_keys`). `subject` is a user id, "" while unknown.
    `data` is small JSON for the purpose (grant id, user code, nonce, …). `single_use` ones are consumed by `claim`.
    """

    digest: str
    purpose: str
    subject: str
    issued_at: datetime
    expires_at: datetime
    single_use: bool = False
    used_at: datetime | None = None
    data: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A short-lived target credential with an owner and an end.

    `state`: creating → active → revoking → dropped, or zombie while a drop keeps failing (retried for ever).
    `name` is the ephemeral role. No secret is stored: the password lives in the memory of `gateway`.
    """

    id: str
    grant: str
    target: str
    level: str
    name: str
    gateway: str
    state: str
    created_at: datetime
    expires_at: datetime
    attempts: int = 0
    last_error: str = ""
    next_attempt_at: datetime | None = None
    place: str = ""  # the server and database that it was made on


class Users(Protocol):
    def get(self, user_id: str) -> User | None: ...
    def by_name(self, name: str) -> User | None: ...
    def several(self, ids: Collection[str]) -> Sequence[User]:
        """Those of them that there are, in few questions."""
        ...

    def upsert(self, user: User) -> None: ...
    def regroup(self, users: Sequence[User]) -> None:
        """Store the groups of people who are known, in one go, and nothing else of them."""
        ...

    def confirm(self, user_id: str, at: datetime | None) -> None:
        """Their provider has just said who they are and which groups they are in; None: that they are out."""
        ...

    def confirmed_at(self, user_id: str) -> datetime | None:
        """When it last did; None when that is not known."""
        ...

    def all(self) -> Sequence[User]: ...


class Requests(Protocol):
    def add(self, request: Request) -> None: ...
    def get(self, request_id: str) -> Request | None: ...
    def save(self, request: Request, expected: RequestState) -> bool:
        """Store with its approvals if the stored state is still `expected`; False when somebody was faster."""
        ...

    def list(self, *, requester: str = "", state: RequestState | None = None, limit: int = 200) -> Sequence[Request]:
        """Newest first."""
        ...


@dataclass(frozen=True, slots=True)
class GrantInUse:
    """A grant, whose it is, and what was known when it was asked for."""

    grant: Grant
    holder: User
    facts: Mapping[str, object]
    requested_at: datetime


class Grants(Protocol):
    def add(self, grant: Grant) -> None: ...
    def get(self, grant_id: str) -> Grant | None: ...
    def in_use(self, grant_id: str) -> GrantInUse | None:
        """All that a connection under a grant is judged by, in one question."""
        ...

    def save(self, grant: Grant) -> bool:
        """Store a revocation; False when it was revoked already."""
        ...

    def extend(self, grant: Grant, was: datetime) -> bool:
        """Store a later end with the deadlines of its live sessions; False when it is revoked or no longer `was`."""
        ...

    def list(
        self, *, holder: str = "", target: str = "", active_at: datetime | None = None, limit: int = 200
    ) -> Sequence[Grant]:
        """Newest first. `active_at` keeps the ones that are active at that instant."""
        ...


class Reviews(Protocol):
    def add(self, review: Review) -> None: ...
    def get(self, review_id: str) -> Review | None: ...
    def by_grant(self, grant_id: str) -> Review | None: ...
    def save(self, review: Review) -> bool:
        """Store a signature; False when it was signed already."""
        ...

    def open(self) -> Sequence[Review]: ...


@dataclass(frozen=True, slots=True)
class LiveView:
    """All that decides whether a live session may go on, in one read."""

    session: Session
    grant: Grant
    holder: User


class Sessions(Protocol):
    def add(self, session: Session) -> None: ...
    def get(self, session_id: str) -> Session | None: ...
    def save(self, session: Session) -> bool:
        """Store an end; False when it was over already."""
        ...

    def request_kill(self, session_id: str, by: str) -> bool:
        """Mark for ending by the gateway that holds it; False when it is over or marked already."""
        ...

    def lock(self, session_id: str, by: str) -> bool:
        """Mark its input as held back by `by`, or free it when `by` is ""; False when it is over or so already."""
        ...

    def request_cancel(self, session_id: str, wish: Cancel) -> bool:
        """Mark its statement for cancelling by the gateway that holds it; False when it is over."""
        ...

    def show_running(self, running: Mapping[str, Running | None]) -> None:
        """What databases work on for these sessions now."""
        ...

    def touch(self, session_ids: Collection[str], at: datetime) -> None:
        """Something happened in them."""
        ...

    def list(
        self, *, live: bool | None = None, holder: str = "", target: str = "", grant: str = "", limit: int = 200
    ) -> Sequence[Session]:
        """Newest first."""
        ...

    def live_marks(self, gateway: str) -> Mapping[str, object]:
        """Every live session of one gateway, with what changes when its view does (but for `active_at`). Cheap."""
        ...

    def live_views(self, gateway: str, only: Collection[str] | None = None) -> Sequence[LiveView]:
        """Every live session of one gateway (or those of them) with its grant and holder, as stored now."""
        ...


class Leases(Protocol):
    def add(self, lease: Lease) -> None: ...
    def save(self, lease: Lease) -> None: ...
    def by_grant(self, grant_id: str) -> Sequence[Lease]: ...
    def unfinished(self) -> Sequence[Lease]:
        """Every lease whose role may still exist (state other than dropped)."""
        ...


class Credentials(Protocol):
    def add(self, credential: Credential) -> None: ...
    def find(self, digest: str, purpose: str) -> Credential | None: ...
    def count_for(self, subject: str, purpose: str) -> int: ...
    def find_by_data(self, purpose: str, key: str, value: str) -> Credential | None: ...
    def save(self, credential: Credential) -> None: ...
    def claim(self, digest: str, purpose: str, at: datetime) -> bool:
        """Mark as used, atomically; False when it was used already or does not exist."""
        ...

    def remove_for(self, subject: str, purpose: str) -> int: ...
    def of_subject(self, subject: str, purpose: str) -> Sequence[Credential]:
        """All of a person's, used or not, the oldest first."""
        ...

    def usable(self, user_name: str, target: str, key: str, at: datetime, limit: int) -> Sequence[tuple[str, str]]:
        """(digest, `data[key]`) of a person's tickets for a target that may be used at an instant, the newest first.

        One question for any name: whether somebody has it shows neither in the answer nor in the time that it takes.
        """
        ...

    def remove(self, digest: str, purpose: str) -> int: ...
    def purge(self, before: datetime, purpose: str = "") -> int:
        """Forget what expired before an instant, of one purpose or ("") of all; how many that were."""
        ...


class Shifts(Protocol):
    def replace(self, source: str, window: Window, shifts: Iterable[Shift]) -> None:
        """The snapshot of one source over a window takes the place of the one before."""
        ...

    def keep_only(self, sources: Sequence[str]) -> None:
        """Remove the snapshots of all other sources."""
        ...

    def covering(self, service: str, at: datetime, slack: timedelta) -> Sequence[Shift]: ...


class Incidents(Protocol):
    def get(self, incident_id: str) -> Incident | None: ...
    def replace(self, source: str, incidents: Iterable[Incident]) -> None: ...
    def keep_only(self, sources: Sequence[str]) -> None: ...
    def list(self) -> Sequence[Incident]: ...


class Gateways(Protocol):
    """Which gateway processes are alive: what a dead one held is ended by the others."""

    def beat(self, gateway: str, at: datetime) -> None: ...
    def silent_since(self, before: datetime) -> Sequence[str]: ...
    def forget(self, gateway: str) -> None: ...


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What to look for; empty fields match everything. `text` is matched in type and data, case-insensitively."""

    target: str = ""
    principal: str = ""
    type: str = ""
    session: str = ""
    grant: str = ""
    request: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place in the log; `index` None until it is sequenced. `leaf` are the bytes as hashed."""

    event: Event
    leaf: bytes
    index: int | None


class Events(Protocol):
    """Write side: the outbox of the log, committed with the state that it tells about."""

    def append(self, event: Event) -> None: ...
    def append_each(self, events: Sequence[Event]) -> None: ...


class UnitOfWork(AbstractContextManager["UnitOfWork"], Protocol):
    """One transaction, serialisable against other writers. Commits on a clean exit, rolls back on an exception."""

    users: Users
    requests: Requests
    grants: Grants
    reviews: Reviews
    sessions: Sessions
    held: HeldCommits
    leases: Leases
    credentials: Credentials
    shifts: Shifts
    incidents: Incidents
    gateways: Gateways
    provider_sessions: ProviderSessions
    api_tokens: ApiTokens
    provisioning: Provisioning
    deploys: Deploys
    passkeys: Passkeys
    events: Events


class Store(Protocol):
    def begin(self) -> UnitOfWork:
        """A writing transaction."""
        ...

    def read(self) -> UnitOfWork:
        """A consistent view; writing through it is an error."""
        ...


# ---------------------------------------------------------------- the log


class EventLog(Protocol):
    """The Merkle tree over the events. Sequenced by one writer with group commit."""

    def wait_included(self, event_ids: Sequence[str], timeout: timedelta) -> bool:
        """True once all of them are leaves under a signed checkpoint; False when that took too long."""
        ...

    def search(self, filter: EventFilter) -> Sequence[StoredEvent]:
        """Newest first, on a handle that can only SELECT."""
        ...

    def get(self, event_id: str) -> StoredEvent | None: ...

    def checkpoint(self) -> str:
        """The newest signed checkpoint (a C2SP signed note)."""
        ...

    def inclusion_proof(self, event_id: str) -> str:
        """A C2SP tlog-proof (receipt) of the event against the newest checkpoint; NotFound when unsequenced."""
        ...

    def tile(self, path: str) -> bytes | None:
        """The bytes of `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`; None when there is no such tile."""
        ...


# ---------------------------------------------------------------- facts and policy


class Policy(Protocol):
    """Cedar behind a port. Any evaluation error is a Deny."""

    def decide(self, query: Query) -> Decision:
        """Permit with merged obligations, or Deny with what would have made it a permit."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of the policy set in force."""
        ...

    def reload(self) -> str | None:
        """Load anew from the files; None when a new or the same set is in force, else why the old one stays."""
        ...


class CatalogueSource(Protocol):
    def current(self) -> Catalogue:
        """The catalogue in force."""
        ...

    def reload(self) -> str | None:
        """As `Policy.reload`."""
        ...


class ShiftSource(Protocol):
    name: str

    def fetch(self, window: Window, at: datetime) -> Sequence[Shift]:
        """All shifts that overlap the window; Unavailable when the source does not answer or makes no sense."""
        ...


class IncidentSource(Protocol):
    name: str

    def fetch(self, at: datetime) -> Sequence[Incident]: ...


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class DatabaseLogin:
    """How the proxy logs in upstream. `password` is a secret: never in logs, events or error texts."""

    role: str
    password: str = field(repr=False)


class DatabaseRoles(Protocol):
    """Makes and unmakes ephemeral roles on one kind of database. See shared facts on dynamic credentials §7.3."""

    def create(self, target: Target, level: Level, role: str, until: datetime) -> DatabaseLogin:
        """A fresh role, member of the level's group role only; Unavailable with a cause free of secrets."""
        ...

    def extend(self, target: Target, role: str, until: datetime) -> None:
        """Let a role live longer; Unavailable when it is gone, or with a cause free of secrets."""
        ...

    def revoke(self, target: Target, role: str) -> None:
        """NOLOGIN → terminate → membership → reassign owned → drop → verify gone. Idempotent; else Unavailable."""
        ...

    def roles_of(self, target: Target, prefix: str) -> Sequence[str]:
        """Names of existing roles that begin with `prefix`, to find what nobody owns."""
        ...


class SshSigner(Protocol):
    """The gateway's SSH certificate authorities: one for people at the door, one for targets upstream."""

    @property
    def target_ca_public(self) -> str:
        """The line for a target's TrustedUserCAKeys."""
        ...

    def door_certificate(self, user: User, public_key: str, at: datetime, until: datetime) -> str:
        """An OpenSSH user certificate for the gateway's own door; ValueError for an unsupported key."""
        ...


class Notifier(Protocol):
    def notify(self, channel: str, title: str, body: str, fields: dict[str, str]) -> None:
        """Queue a message; delivery is retried in the background and its failure is an event, never an exception."""
        ...


class Recording(Protocol):
    """The second tier of evidence for one session: append-only, sequence-numbered, hash-chained."""

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        """Queue one record, return its sequence number (from 0). Raises RecordingFailed when it cannot be kept.

        Blocks (bounded) when the spool is full: back-pressure, never loss.
        """
        ...

    def append_all(self, records: Sequence[tuple[str, int, bytes]]) -> int:
        """The same for (kind, unix nanoseconds, content) of several at one go; the number of the last, -1 for none."""
        ...

    def wait_durable(self, seq: int, timeout: timedelta) -> None:
        """Return once record `seq` is on disk; RecordingFailed otherwise."""
        ...

    def on_durable(self, seq: int, callback: Callable[[bool], None]) -> None:
        """The same for an event loop: `callback(ok)` is called once, from the recorder's thread."""
        ...

    def digest(self) -> tuple[int, str]:
        """(number of records, hex of the running chain digest) of what is durable."""
        ...

    def seal(self) -> tuple[int, str]:
        """Flush, make the session's own file, return the final (count, digest). Idempotent."""
        ...


class RecordingFailed(Exception):
    """The recorder cannot keep a record: disk full, I/O error, closed. The session must end."""


class Recorder(Protocol):
    def open(self, session: Session, mode: Record, on_failure: Callable[[], None]) -> Recording:
        """Begin; RecordingFailed when it cannot. `on_failure` comes once, from another thread, if it fails later."""
        ...

    def recover(self) -> Sequence[tuple[str, int, str]]:
        """After a crash: seal every unfinished recording of this gateway; (session id, count, digest) of each."""
        ...

    def recover_all(self) -> Sequence[tuple[str, int, str]]:
        """The same for every other gateway on the same disk of which no process lives."""
        ...

    def sealed_digest(self, session_id: str) -> tuple[int, str] | None:
        """(count, digest) of a sealed recording, computed from its records; None when there is none."""
        ...


class LiveSession(Protocol):
    """A connection held by this process. All calls come from another thread and return at once."""

    def terminate(self, reason: EndReason, detail: str) -> None:
        """Tell the person, close both legs. Idempotent."""
        ...

    def warn(self, sentence: str) -> None:
        """Say a sentence on the person's terminal if the protocol has a place for it."""
        ...

    def lock(self, *, locked: bool) -> None:
        """Hold the person's input back, or let it through again; Conflict where the protocol cannot."""
        ...

    def idle_for(self) -> timedelta:
        """How long nothing came from the person; zero where the protocol does not tell."""
        ...

    def statement(self) -> Statement | None:
        """What the target works on for it; None where it waits for the person, or the protocol has no statements."""
        ...

    def cancel(self, by: str, n: int) -> None:
        """Have statement `n` (0: whatever runs) cancelled on the target, if that is what runs; the person is told."""
        ...
