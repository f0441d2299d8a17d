"""Wiring: the only place that knows every adapter. Builds one `Context` from `Settings`."""

import fcntl
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from gateway.adapters.catalogue import CatalogueFile
from gateway.adapters.cedar import CedarPolicy
from gateway.adapters.credentials.postgres_doctor import PostgresDoctor
from gateway.adapters.credentials.postgres_migrations import PostgresMigrations
from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.adapters.deploy_keys import DeployKeyring
from gateway.adapters.door_tls import ClientAuthority
from gateway.adapters.dpop import SignedDeviceProofs
from gateway.adapters.event_log import EventLogReader, Sequencer, newest_event_at
from gateway.adapters.incidents_file import IncidentsFile
from gateway.adapters.issuer_keys import IssuerKeys
from gateway.adapters.job_tokens import SignedJobTokens
from gateway.adapters.key_file import keys_of
from gateway.adapters.notify.webhook import WebhookNotifier
from gateway.adapters.oidc import OidcProvider
from gateway.adapters.oncall.ical import IcalFeed
from gateway.adapters.oncall.static import StaticRota
from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.recordings import FileRecorder, Keyring, StatementIndex
from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.adapters.signer import Signer
from gateway.adapters.store import SqlStore, upgrade
from gateway.adapters.system import SystemClock, SystemIds
from gateway.adapters.trust_policies import TrustDirectory
from gateway.app import journal
from gateway.app.certificate_ports import NoClients
from gateway.app.context import Context
from gateway.app.deploy_live import DeployMeans, LiveRuns
from gateway.app.fact_ports import IncidentSource, ShiftSource
from gateway.app.identity import ClaimNames
from gateway.app.live import LiveSessions
from gateway.app.record_evidence import Evidence
from gateway.app.record_gap import record_gap
from gateway.app.revalidate import Revalidation
from gateway.edges.proxy.postgres_trial import PostgresTrial, reach
from gateway.edges.proxy.ssh_command import SshCommands
from gateway.edges.supervisor import Supervisor
from gateway.settings import Settings


class AlreadyRunningError(Exception):
    """Another process holds the state directory."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that runs in one process, not yet started."""

    settings: Settings
    ctx: Context
    supervisor: Supervisor
    sequencer: Sequencer
    audit_key: str
    authorities: SshAuthorities
    recorder: FileRecorder
    statements: StatementIndex | None
    notifier: WebhookNotifier
    providers: tuple[OidcProvider, ...]
    lock: int


def build(settings: Settings, lock_name: str = "lock") -> Gateway:
    """Open the state directory, bring the database up to date, wire the adapters.

    Raises AlreadyRunningError, ValueError (a file that is wrong, named with line and key) or Unavailable (database).
    """
    state = private_directory(settings.state_dir.expanduser())
    lock = hold(state, lock_name)
    name = gateway_name(settings, state)
    url = settings.store_url()
    upgrade(url)
    clock = SystemClock(newest_event_at(url))
    signer = Signer(private_directory(state / "keys") / "log.key")
    store = SqlStore(url)
    sequencer = Sequencer(url, signer, settings.log_origin, name, clock.now, store.writing)
    recorded = state / "recordings"
    evidence = Evidence()
    index_file = private_directory(recorded) / "statements.sqlite"
    reader = PostgresParser()
    statements = StatementIndex(index_file, reader) if settings.recordings.index else None
    recording_keys = Keyring(state / "keys" / "recordings.key")
    recorder = FileRecorder(
        recorded,
        name,
        recording_keys,
        evidence=evidence.note,
        gaps=lambda session_id, gap: record_gap(ctx, session_id, gap),
        index=statements,
    )
    authorities = SshAuthorities(state / "ssh")
    notifier = WebhookNotifier(
        settings.notify.webhook_url_files,
        settings.notify.timeout_seconds,
        lambda channel, why: _note_undelivered(ctx, channel, why),
    )
    job_tokens = SignedJobTokens(IssuerKeys(clock, kept=private_directory(state / "issuers")))
    databases = PostgresMigrations()
    commands = SshCommands(authorities, clock.now)
    ctx = Context(
        gateway=name,
        clock=clock,
        ids=SystemIds(clock),
        store=store,
        log=EventLogReader(url, sequencer),
        policy=CedarPolicy(settings.policy_dir, {g: frozenset(r) for g, r in settings.role_groups.items()}),
        catalogue=CatalogueFile(settings.catalogue_file),
        roles=databases,
        reader=reader,
        mask_key=keys_of(state / "keys" / "masks.key", "masked values compare with no earlier ones")[-1],
        doctor=PostgresDoctor(databases, reach, PostgresTrial),
        ssh=authorities,
        recorder=recorder,
        notifier=notifier,
        live=LiveSessions(),
        limits=settings.limits.limits(),
        rota=settings.rota.rules(),
        trust=TrustDirectory(settings.policy_dir / "trust"),
        job_tokens=job_tokens,
        deploy_keys=DeployKeyring(state / "keys" / "deploy.key"),
        sealer=SealedSecrets(state / "keys" / "tokens.key"),
        device_proofs=SignedDeviceProofs(),
        clients=ClientAuthority(state / "tls" / "clients") if settings.postgres.client_certificates else NoClients(),
        deploys=DeployMeans(LiveRuns(), commands, databases, databases),
        wake=lambda: supervisor.wake(),  # noqa: PLW0108 - the supervisor is made below
        rejudge=lambda: supervisor.rejudge(),  # noqa: PLW0108 - as above
    )
    providers = identity_providers(settings, clock)
    supervisor = Supervisor(
        ctx,
        shift_sources(settings),
        incident_sources(settings),
        evidence,
        settings.rota.refresh_seconds,
        {provider.name: Revalidation(ctx, provider).step for provider in providers},
        examines_targets=settings.postgres.examine_targets,
    )
    return Gateway(
        settings=settings,
        ctx=ctx,
        supervisor=supervisor,
        sequencer=sequencer,
        audit_key=signer.verifier(settings.log_origin).text(),
        authorities=authorities,
        recorder=recorder,
        statements=statements,
        notifier=notifier,
        providers=providers,
        lock=lock,
    )


def shift_sources(settings: Settings) -> list[ShiftSource]:
    """Files first, then feeds, in the order given."""
    files: list[ShiftSource] = [StaticRota(path) for path in settings.rota.files]
    feeds = (feed.partition("=") for feed in settings.rota.ical_feeds)
    return [*files, *(IcalFeed(service, place, settings.rota.ical_people) for service, _, place in feeds)]


def incident_sources(settings: Settings) -> list[IncidentSource]:
    """The incidents file, if there is one."""
    return [IncidentsFile(settings.incidents_file)] if settings.incidents_file else []


def identity_providers(settings: Settings, clock: SystemClock) -> tuple[OidcProvider, ...]:
    """The providers in the order of the settings; while there are none nobody can sign in."""
    suffixes = settings.name_suffixes()
    return tuple(
        OidcProvider(
            name=name,
            label=of.label,
            issuer=of.issuer,
            client_id=of.client_id,
            client_secret=of.client_secret_file.read_text().strip() if of.client_secret_file else "",
            # One address each, so that an answer of one cannot be taken for another's (RFC 9700 §4.4.2.2).
            redirect_uri=f"{settings.api_url()}/callback" + ("" if of is settings.oidc else f"/{name}"),
            clock=clock,
            names=ClaimNames(
                name=of.name_claim,
                groups=of.groups_claim,
                suffix=suffixes[name],
                provisioned=of.scim != "off",
                from_scim=of.scim == "groups",
                external_id=of.scim_external_id_claim,
                group_prefix=settings.group_prefix(name),
                reserved=() if suffixes[name] else tuple(filter(None, suffixes.values())),
            ),
            scopes=tuple(of.scopes.split()),
            parameters=of.parameters,
        )
        for name, of in settings.identity_providers().items()
    )


def private_directory(path: Path) -> Path:
    """The directory, 0700, made if need be."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def hold(state: Path, name: str = "lock") -> int:
    """Lock the state directory for the life of this process: recovery would end another one's live sessions."""
    lock = os.open(state / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyRunningError(f"another gateway runs in {state}; stop it, or give this one a state_dir") from None
    return lock


def gateway_name(settings: Settings, state: Path) -> str:
    """A name that survives restarts, so that this process finds what it left open."""
    if settings.name:
        return settings.name
    kept = state / "gateway-name"
    if not kept.exists():
        kept.write_text(f"{socket.gethostname()[:40]}-{secrets.token_hex(3)}")
    return kept.read_text().strip()


def _note_undelivered(ctx: Context, channel: str, why: str) -> None:
    journal.record(ctx, "notification:failed", "failed", {"channel": channel, "message": why})
