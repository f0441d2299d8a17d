"""Everything the use cases may touch, in one frozen value that bootstrap builds once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from gateway.app.certificate_ports import ClientSigner, NoClients
from gateway.app.deploy_live import DeployMeans, no_means
from gateway.app.doctor_ports import NoDoctor, TargetDoctor
from gateway.app.live import LiveSessions
from gateway.app.log_ports import EventLog
from gateway.app.logins import LeasedLogins
from gateway.app.people_ports import Sealer
from gateway.app.ports import CatalogueSource, Clock, Ids, Notifier, Policy, Store
from gateway.app.possession_ports import DeviceProofs, NoDeviceProofs
from gateway.app.recording_ports import Recorder
from gateway.app.statement_ports import ReadsNothing, StatementReader
from gateway.app.target_ports import DatabaseRoles, SshSigner
from gateway.app.workload_ports import DeployKeys, JobTokens, NoDeployKeys, NoJobTokens, NoTrust, TrustSource
from gateway.core.rota import RotaRules


@dataclass(frozen=True, slots=True)
class Limits:
    """The gateway's own bounds; policy can only be stricter."""

    longest_grant: timedelta = timedelta(hours=12)
    ticket_lifetime: timedelta = timedelta(hours=1)
    cli_credential_lifetime: timedelta = timedelta(hours=12)
    ssh_certificate_lifetime: timedelta = timedelta(hours=1)
    web_session_lifetime: timedelta = timedelta(hours=8)
    device_code_lifetime: timedelta = timedelta(minutes=10)
    api_token_lifetime: timedelta = timedelta(days=90)
    emergency_lifetime: timedelta = timedelta(minutes=30)
    emergency_groups_age: timedelta = timedelta(days=7)
    log_wait: timedelta = timedelta(seconds=5)
    gateway_silent_after: timedelta = timedelta(seconds=30)


def _nobody_sleeps() -> None:
    """Stands in where no supervisor runs (one-shot commands)."""


class _KeepsNothing:
    """Stands in where no key is wired: then no refresh token is kept."""

    def seal(self, secret: str, bound: str) -> str:
        del secret, bound
        return ""

    def unseal(self, sealed: str, bound: str) -> str:
        del sealed, bound
        raise ValueError("nothing is kept here")


@dataclass(frozen=True, slots=True)
class Context:
    """`gateway` names this process in events and rows."""

    gateway: str
    clock: Clock
    ids: Ids
    store: Store
    log: EventLog
    policy: Policy
    catalogue: CatalogueSource
    roles: DatabaseRoles
    ssh: SshSigner
    recorder: Recorder
    notifier: Notifier
    live: LiveSessions
    limits: Limits = field(default_factory=Limits)
    rota: RotaRules = field(default_factory=RotaRules)
    logins: LeasedLogins = field(default_factory=LeasedLogins)
    deploy_keys: DeployKeys = field(default_factory=NoDeployKeys)
    sealer: Sealer = field(default_factory=_KeepsNothing)
    trust: TrustSource = field(default_factory=NoTrust)
    job_tokens: JobTokens = field(default_factory=NoJobTokens)
    deploys: DeployMeans = field(default_factory=no_means)
    mask_key: bytes = field(default=b"", repr=False)  # of hashes shown in place of values; none where it is empty
    reader: StatementReader = field(default_factory=ReadsNothing)
    doctor: TargetDoctor = field(default_factory=NoDoctor)
    device_proofs: DeviceProofs = field(default_factory=NoDeviceProofs)
    clients: ClientSigner = field(default_factory=NoClients)
    wake: Callable[[], None] = _nobody_sleeps  # rouses the supervisor: something ended
    rejudge: Callable[[], None] = _nobody_sleeps  # lets it ask policy again about every live session
