"""`gw serve`: the API, the doors and the upkeep in one process, from start-up recovery to an orderly end."""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import uvicorn
import uvloop
from pydantic import ValidationError

from gateway.adapters.door_tls import ClientAuthority, end_point_binding, ensure_door_certificate
from gateway.adapters.event_log import TreeMismatchError
from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app import journal
from gateway.app.compare_deploy_keys import compare_deploy_keys
from gateway.app.lease_role import reap_leases
from gateway.app.providers import Providers
from gateway.app.recover import recover
from gateway.app.reload_rules import note_start
from gateway.app.watch_deploys import recover_deploys
from gateway.bootstrap import AlreadyRunningError, Gateway, build
from gateway.core.errors import GatewayError
from gateway.edges.http.app import DoorFacts, create_app
from gateway.edges.http.protocol import BoundedHttpProtocol
from gateway.edges.proxy.postgres import PostgresDoor, serve_postgres
from gateway.edges.proxy.ssh_door import SshDoor, doorkeeper, serve_ssh
from gateway.settings import Settings, load_settings
from gateway.workers import shared_listener, stop_with_parent, supervise

LOG = logging.getLogger("gateway")
STOP_SECONDS = 10.0
_LOOK_AGAIN_S = 0.02
MOST_WORKERS = 64
MOST_HTTP_CONNECTIONS = 8192  # per process, of all clients; each client has its own limit
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_APART = 256 * 1024  # what uvloop keeps for a TLS connection: apart, it costs the pages that are used, and no hole


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="GATEWAY_CONFIG",
    help="TOML file of settings; GATEWAY_… environment variables override it.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=1,
    show_default=True,
    envvar="GATEWAY_WORKERS",
    help="Processes behind the same ports, to use that many cores.",
)
@click.option("--worker", type=click.IntRange(0, MOST_WORKERS), default=0, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when everything is ready.")
def serve(config: Path | None, workers: int, worker: int, *, as_json: bool) -> None:
    """Run the gateway: API, SSH door, database door and upkeep in one process.

    Needs a catalogue, policies and an identity provider; see docs/install.md and docs/configure.md.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # its INFO lines are one per call to the provider
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # its INFO lines repeat what strangers send
    _raise_open_files()
    _keep_freed_memory()
    try:
        settings = load_settings(config)
        if workers > 1 and not worker:
            raise SystemExit(supervise(settings, config, workers, as_json=as_json))
        gateway = build(settings, f"lock-{worker}" if worker else "lock")
    except ValidationError as wrong:
        for error in wrong.errors(include_url=False, include_input=False):
            click.echo(f"setting {'.'.join(map(str, error['loc'])) or '(all)'}: {error['msg']}", err=True)
        raise SystemExit(2) from wrong
    except (AlreadyRunningError, ValueError, OSError) as wrong:
        click.echo(f"gw serve: {wrong}", err=True)
        raise SystemExit(1) from wrong
    except GatewayError as wrong:
        click.echo(f"gw serve: {wrong.refusal.sentence()}", err=True)
        raise SystemExit(1) from wrong
    if worker:
        stop_with_parent()
    uvloop.run(_run(gateway, as_json=as_json, is_worker=bool(worker)))


@dataclass(slots=True)
class _Doors:
    api: "_Api"
    api_sockets: list[socket.socket] | None  # None: uvicorn binds
    postgres: PostgresDoor | None
    ssh: SshDoor | None


class _Api(uvicorn.Server):
    """uvicorn in our loop: signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(gateway: Gateway, *, as_json: bool, is_worker: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stopping.set)
    ctx = gateway.ctx
    try:
        await asyncio.to_thread(gateway.sequencer.start)
    except (TreeMismatchError, GatewayError) as wrong:
        told = wrong.refusal.sentence() if isinstance(wrong, GatewayError) else str(wrong)
        click.echo(f"gw serve: {told}\nSee docs/runbooks for what to do.", err=True)
        raise SystemExit(1) from wrong
    interrupted = await asyncio.to_thread(recover, ctx)
    interrupted_runs = await asyncio.to_thread(recover_deploys, ctx)
    await asyncio.to_thread(compare_deploy_keys, ctx)
    await asyncio.to_thread(gateway.supervisor.run_once)
    doors = await _open_doors(gateway, is_worker=is_worker)
    gateway.supervisor.start()
    _calm_the_collector()
    digest = gateway.settings.digest()
    await asyncio.to_thread(note_start, ctx, digest, interrupted=interrupted, interrupted_runs=interrupted_runs)
    serving = asyncio.create_task(doors.api.serve(sockets=doors.api_sockets))
    stopped = asyncio.create_task(stopping.wait())
    while not (doors.api.started or serving.done() or stopped.done()):  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(_LOOK_AGAIN_S)
    if doors.api.started:
        _tell_ready(gateway, doors, as_json=as_json)
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    await _close(gateway, doors, serving)


async def _open_doors(gateway: Gateway, *, is_worker: bool) -> _Doors:
    settings, ctx = gateway.settings, gateway.ctx
    cert, key, ca = _door_files(settings, gateway)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(cert, key)
    if settings.postgres.client_certificates:
        ClientAuthority(settings.state_dir.expanduser() / "tls" / "clients").admit(tls)
    uses_scram = settings.postgres.authentication == "scram"
    binding = end_point_binding(cert) if uses_scram else b""
    postgres = None
    if settings.postgres.enabled:
        with _listening("postgres", settings.postgres.host, settings.postgres.port):
            postgres = await serve_postgres(
                ctx,
                settings.postgres.host,
                settings.postgres.port,
                tls,
                uses_scram=uses_scram,
                binding=binding,
                reuse_port=is_worker,
            )
    ssh = None
    if settings.ssh.enabled:
        with _listening("ssh", settings.ssh.host, settings.ssh.port):
            ssh = await asyncio.to_thread(
                serve_ssh,
                doorkeeper(ctx),
                settings.ssh.host,
                settings.ssh.port,
                gateway.authorities,
                gateway.authorities.host_key(),
                reuse_port=is_worker,
                post_quantum_only=settings.ssh.post_quantum_only,
            )
    facts = DoorFacts(
        ssh_host=settings.ssh.public_host or settings.ssh.host,
        ssh_port=ssh.port if ssh else 0,
        ssh_host_key=gateway.authorities.host_key_public,
        postgres_host=settings.postgres.public_host or settings.postgres.host,
        postgres_port=postgres.port if postgres else 0,
        postgres_ca_pem=ca.read_text(),
        postgres_binds=bool(binding),
        postgres_knows_certificates=settings.postgres.client_certificates,
        audit_key=gateway.audit_key,
    )
    passkeys = WebAuthnRelyingParty(settings.api_url())
    if not passkeys.has_host_name():
        LOG.warning("api.public_url has no host name: nobody can add a passkey, nor use one to break the glass")
    app = create_app(
        ctx,
        Providers(gateway.providers),
        facts,
        public_url=settings.api_url(),
        statements=gateway.statements,
        passkeys=passkeys,
    )
    shared = [shared_listener(settings.api.host, settings.api.port)] if is_worker else None
    return _Doors(_api(settings, app), shared, postgres, ssh)


@contextlib.contextmanager
def _listening(door: str, host: str, port: int) -> Iterator[None]:
    """Say which door cannot listen, and which settings are about it."""
    try:
        yield
    except OSError as wrong:
        why = os.strerror(wrong.errno) if wrong.errno else str(wrong)
        click.echo(f"gw serve: cannot listen on {host}:{port}: {why} (settings {door}.host, {door}.port)", err=True)
        raise SystemExit(1) from wrong


def _api(settings: Settings, app: object) -> _Api:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # ASGI app; uvicorn's union of shapes is narrower than FastAPI's type
        host=settings.api.host,
        port=settings.api.port,
        ssl_certfile=settings.api.tls_cert_file,
        ssl_keyfile=settings.api.tls_key_file,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the client's address is the socket's: a header is anybody's word (ASVS 4.1.3)
        timeout_keep_alive=15,
        limit_concurrency=MOST_HTTP_CONNECTIONS,
        http=BoundedHttpProtocol,
        ws="none",  # none is served; an upgraded connection would leave the protocol's limits
        lifespan="off",
    )
    return _Api(config)


def _door_files(settings: Settings, gateway: Gateway) -> tuple[Path, Path, Path]:
    own = settings.postgres
    if own.tls_cert_file and own.tls_key_file:
        return own.tls_cert_file, own.tls_key_file, own.tls_ca_file or own.tls_cert_file
    hosts = tuple(dict.fromkeys((own.public_host or own.host, own.host, "localhost")))
    return ensure_door_certificate(settings.state_dir.expanduser() / "tls", hosts, gateway.ctx.clock.now())


def _tell_ready(gateway: Gateway, doors: _Doors, *, as_json: bool) -> None:
    settings = gateway.settings
    ready = {
        "api": settings.api_url(),
        "ssh": {"host": settings.ssh.public_host or settings.ssh.host, "port": doors.ssh.port if doors.ssh else 0},
        "postgres": {
            "host": settings.postgres.public_host or settings.postgres.host,
            "port": doors.postgres.port if doors.postgres else 0,
        },
        "audit_key": gateway.audit_key,
    }
    if as_json:
        click.echo(json.dumps(ready))
    else:
        LOG.info("ready: %s", json.dumps(ready))


async def _close(gateway: Gateway, doors: _Doors, serving: asyncio.Task[None]) -> None:
    """Doors first, so that every session has its end and reason; the log last, so that they are all in it."""
    doors.api.should_exit = True
    if doors.postgres is not None:
        await doors.postgres.close()
    if doors.ssh is not None:
        await asyncio.to_thread(doors.ssh.close)
    await asyncio.to_thread(gateway.ctx.deploys.live.stop_all, "the gateway is stopping", STOP_SECONDS)
    with contextlib.suppress(TimeoutError, SystemExit):  # uvicorn exits the process when its port is taken
        await asyncio.wait_for(asyncio.shield(serving), STOP_SECONDS)
    await asyncio.to_thread(_drop_and_drain, gateway)


def _drop_and_drain(gateway: Gateway) -> None:
    ctx = gateway.ctx
    gateway.supervisor.stop()
    ctx.logins.clear()  # a role whose password nobody knows is not needed: the reaper drops it
    try:
        left = reap_leases(ctx, ctx.clock.now())
        journal.record(ctx, "gateway:stopped", "ok", {"roles_left": left})
    except GatewayError as wrong:
        LOG.warning("stopped without a last event: %s", wrong.refusal.message)
    gateway.sequencer.stop()
    gateway.recorder.close()
    if gateway.statements is not None:
        gateway.statements.close()
    gateway.notifier.close()
    for provider in gateway.providers:
        provider.close()


def _calm_the_collector() -> None:
    """What was made at start stays, so it need not be looked through again with every few hundred new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _raise_open_files() -> None:
    """Each session needs a few descriptors; the soft limit of 1,024 is for interactive shells."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_freed_memory() -> None:
    """By default glibc gives freed memory back so eagerly that a fifth of a busy session's time goes to page faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not every C library has it
        mallopt(_M_TRIM_THRESHOLD, 64 * 1024 * 1024)
        mallopt(_M_MMAP_THRESHOLD, _APART)
