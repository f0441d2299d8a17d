"""A running `gw serve` in front of two real servers, with a person on call, and pipelines by deploy token."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.adapters.deploy_keys import DeployKeyring
from gateway.adapters.store import SqlStore, upgrade
from gateway.adapters.trust_policies import load
from gateway.app.credentials import digest_of
from gateway.app.people_ports import Credential
from gateway.app.possession import KEY
from gateway.core.deploy_token import Caveat, Right, mint
from gateway.core.principal import User, Workload
from gateway.demo.ci_issuer import CiIssuer, ci_issuer
from gateway.demo.ports import free_port
from gateway.edges.cli.client import write_private
from tests.sshd import Sshd
from tests.unit.edges.device import DEVICE

GW = [sys.executable, "-m", "gateway"]
REPOSITORY = Path(__file__).parents[2]
PEOPLE = {"oncall": {"engineers"}, "developer": {"engineers"}, "lead": {"leads"}, "auditor": {"auditors"}}
JOB = Workload(
    id="wkl_shop-1_2", name="github:octo/shop", trust_policy="shop", issuer="https://ci.test", subject="repo:octo/shop",
    repository="octo/shop", ref="refs/heads/main", commit="0" * 40, run="100.1", environment="production", actor="dev",
)  # fmt: skip
WEB = ("web-1", "web-2")
VERBS = ("deploy", "rollback", "restart", "echo", "slow", "fail", "tied")

_PROGRAM = """\
#!/bin/sh
# what a server's own deploy program may look like: it notes what it was told and puts the version in place
set -eu
here="$1"; version="$2"
echo "deploying $version"
if [ -e "$here/broken" ]; then echo "cannot place $version" >&2; exit 7; fi
printf %s "$version" > "$here/version"
echo "$version" >> "$here/placed"
echo "done"
"""


@dataclass
class DeployStage:
    directory: Path
    servers: Mapping[str, Sshd]
    extra: str = ""
    state: Path = field(init=False)
    issuer: CiIssuer | None = None
    process: "subprocess.Popen[str] | None" = None
    url: str = ""
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = self.directory / "state"

    # ------------------------------------------------------------ the gateway

    def start(self) -> None:
        with (self.directory / "gateway.log").open("a") as log:
            self.process = subprocess.Popen(
                [*GW, "serve", "--config", str(self.directory / "gateway.toml"), "--json"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=self._clean(),
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.directory / "gateway.log").read_text()[-4000:]
        self.url = json.loads(line)["api"]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def log(self) -> str:
        return (self.directory / "gateway.log").read_text()

    def _clean(self) -> dict[str, str]:
        unwanted = ("GATEWAY_", "GW_", "ACTIONS_", "PG")
        return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}

    # ------------------------------------------------------------ callers

    def env(self, token: str) -> dict[str, str]:
        home = str(self.directory / "home")
        return {**self._clean(), "GW_URL": self.url, "GW_TOKEN": token, "GW_HOME": home, "GW_KEYRING": "off"}

    def gw(
        self, who: str, *words: str, status: int | None = 0, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """As one of the people, or with a deploy token."""
        token = self.tokens.get(who, who)
        done = subprocess.run(
            [*GW, *words],
            env={**self.env(token), **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert status is None or done.returncode == status, (
            words,
            done.returncode,
            done.stdout,
            done.stderr,
            self.log()[-3000:],
        )
        return done

    def json(self, who: str, *words: str, status: int | None = 0) -> Any:
        return json.loads(self.gw(who, *words, "--json", status=status).stdout)

    def begin(self, who: str, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*GW, *words], env=self.env(self.tokens.get(who, who)), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def job(self, *caveats: Caveat, targets: tuple[str, ...] = WEB, verbs: tuple[str, ...] = VERBS, **of: str) -> str:
        """A deploy token of one pipeline run; `run` tells runs apart."""
        workload = Workload(**{**{name: getattr(JOB, name) for name in JOB.__dataclass_fields__}, **of})
        at = datetime.now(UTC)
        return mint(
            DeployKeyring(self.state / "keys" / "deploy.key").root_keys()[0],
            id=f"dtk_{os.urandom(8).hex()}", workload=workload,
            rights=[Right(target, verb) for target in targets for verb in verbs],
            issued_at=at, not_after=at + timedelta(minutes=10), caveats=caveats,
            terms=load(self.directory / "policies" / "trust").rules[workload.trust_policy].terms,
        )  # fmt: skip

    def pipeline(
        self,
        *words: str,
        status: int | None = 0,
        with_gw: str = "",
        env: Mapping[str, str] | None = None,
        **claims: object,
    ) -> "subprocess.CompletedProcess[str]":
        """As a GitHub job: the small script of docs/ci, the job's environment, and nothing else of ours."""
        assert self.issuer is not None
        program = self.directory / "gw"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
        program.chmod(0o755)
        of_job = {"GW": str(program), "GW_URL": self.url, **self.issuer.job_environment(**claims), **(env or {})}
        done = subprocess.run(
            [str(REPOSITORY / "docs/ci/gw-deploy.sh"), *words], env={**self._clean(), **of_job},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd=REPOSITORY,
        )  # fmt: skip
        assert status is None or done.returncode == status, (
            done.returncode,
            done.stdout,
            done.stderr,
            self.log()[-3000:],
        )
        return done

    def events(self, type_: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("auditor", "audit", "search", "--type", type_)
        return found

    # ------------------------------------------------------------ the servers

    def home(self, target: str) -> Path:
        return self.directory / target

    def version(self, target: str) -> str:
        path = self.home(target) / "version"
        return path.read_text() if path.exists() else ""

    def placed(self, target: str) -> list[str]:
        path = self.home(target) / "placed"
        return path.read_text().split() if path.exists() else []

    def freeze(self, *, verbs: str = "[deploy]") -> None:
        now = datetime.now(UTC)
        text = f"""\
freezes:
  sales:
    from: {(now - timedelta(hours=1)).isoformat()}
    until: {(now + timedelta(hours=1)).isoformat()}
    by: the release managers
    reason: the sales weekend
    verbs: {verbs}
"""
        (self.directory / "catalogue.yaml").write_text(catalogue(self.directory, self.servers, self.extra) + text)

    def thaw(self) -> None:
        (self.directory / "catalogue.yaml").write_text(catalogue(self.directory, self.servers, self.extra))


def catalogue(directory: Path, servers: Mapping[str, Sshd], extra: str) -> str:
    text = """\
version: 1
services:
  orders: {owners: [lead]}
targets:
"""
    for name, sshd in servers.items():
        account = sshd.account
        text += f"""\
  {name}:
    kind: ssh
    service: orders
    environment: production
    host: 127.0.0.1
    port: {sshd.port}
    host_keys: ["{sshd.host_key}"]
    levels:
      shell: {{account: {account}}}
    verbs:
      deploy:
        argv: [{directory}/deploy.sh, {directory / name}, "{{version}}"]
        account: {account}
        version: version
        rollback: rollback
        timeout: 30s
        parameters: {{version: {{type: version}}}}
      rollback:
        argv: [{directory}/deploy.sh, {directory / name}, "{{version}}"]
        account: {account}
        version: version
        timeout: 30s
        parameters: {{version: {{type: version}}}}
      restart:
        argv: [/bin/echo, restarted]
        account: {account}
      echo:
        argv: [/usr/bin/printf, "%s|", "{{text}}", end]
        account: {account}
        parameters: {{text: {{type: text}}}}
      slow:
        argv: [/bin/sh, -c, "echo begun; touch $0/slow; sleep {{seconds}}; echo over; touch $0/slept", {directory / name}]
        account: {account}
        timeout: 30s
        parameters: {{seconds: {{type: integer, min: 0, max: 60}}}}
      tied:
        argv: [/bin/sh, -c, "echo begun; touch $0/slow; sleep {{seconds}}; touch $0/slept", {directory / name}]
        account: {account}
        when_gone: cancel
        parameters: {{seconds: {{type: integer, min: 0, max: 60}}}}
      fail:
        argv: [/bin/sh, -c, "exit {{status}}"]
        account: {account}
        parameters: {{status: {{type: integer, min: 0, max: 255}}}}
"""
    return f"{text}{extra}groups:\n  web: {{targets: [{', '.join(servers)}]}}\n"


def _write(stage: DeployStage) -> None:
    now = datetime.now(UTC)
    program = stage.directory / "deploy.sh"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    for name in stage.servers:
        stage.home(name).mkdir()
    stage.thaw()
    (stage.directory / "rota.yaml").write_text(f"""\
version: 1
services:
  orders:
    schedules:
      primary:
        escalation: 1
        time_zone: UTC
        rotation: {{people: [oncall], starts: {(now - timedelta(days=7)).date()}, handover: "09:00", length: 1w}}
""")
    (stage.directory / "incidents.yaml").write_text(f"""\
version: 1
incidents:
  - {{id: INC-1, service: orders, title: it is broken, opened_at: {(now - timedelta(minutes=5)).isoformat()}}}
""")
    shutil.copytree(REPOSITORY / "policies", stage.directory / "policies")
    port = free_port()
    trust = stage.directory / "policies" / "trust"
    trust.mkdir(exist_ok=True)
    for old in trust.iterdir():
        old.unlink()
    (trust / "shop.yaml").write_text(SHOP)
    if stage.issuer is not None:
        (trust / "ci.yaml").write_text(TRUST.format(issuer=stage.issuer.url, audience=f"http://127.0.0.1:{port}"))
    text = json.dumps
    (stage.directory / "gateway.toml").write_text(f"""\
state_dir = {text(str(stage.state))}
name = "stage"
catalogue_file = {text(str(stage.directory / "catalogue.yaml"))}
policy_dir = {text(str(stage.directory / "policies"))}
incidents_file = {text(str(stage.directory / "incidents.yaml"))}
[api]
port = {port}
[ssh]
port = {free_port()}
[postgres]
port = {free_port()}
[rota]
files = [{text(str(stage.directory / "rota.yaml"))}]
refresh_seconds = 2
""")


def _sign_in(stage: DeployStage) -> None:
    """People as if they had signed in: the sign-in itself is tested elsewhere."""
    url = f"sqlite:///{stage.state / 'gateway.db'}"
    upgrade(url)
    store, at, key = SqlStore(url), datetime.now(UTC), DEVICE.thumbprint
    write_private(stage.directory / "home" / "device.key", DEVICE.seed.encode())
    with store.begin() as uow:
        for name, groups in PEOPLE.items():
            uow.users.upsert(User(f"usr_{name}", "https://idp.test", name, name, "", frozenset(groups)))
            token = f"gwc_{os.urandom(24).hex()}"
            stage.tokens[name] = token
            uow.credentials.add(
                Credential(digest_of(token), "cli", f"usr_{name}", at, at + timedelta(hours=8), data={KEY: key})
            )
    store.close()


TRUST = """\
version: 1
issuers:
  github:
    kind: github
    issuer: {issuer}
    audience: {audience}
rules:
  shop-production:
    issuer: github
    claims:
      repository_owner_id: 65
      repository_id: 1296269
      ref: refs/heads/main
      environment: production
      job_workflow_ref: acme/web/.github/workflows/deploy.yml@refs/heads/main
    allow:
      - targets: [web-1, web-2]
        verbs: [deploy, rollback, fail]
"""
SHOP = """\
version: 1
issuers:
  ci-test:
    kind: oidc
    issuer: https://ci.test
    audience: https://gw.test
rules:
  shop:
    issuer: ci-test
    claims: {sub: "repo:octo/shop"}
    allow:
      - targets: [web-1, web-2, orders-db]
        verbs: [deploy, rollback, restart, echo, slow, fail, tied, migrate, index, alter]
"""


@contextmanager
def deploy_stage(directory: Path, *, extra: str = "") -> Iterator[DeployStage]:
    state = directory / "state"
    state.mkdir(mode=0o700)
    (state / "keys").mkdir(mode=0o700)
    public = SshAuthorities(state / "ssh").target_ca_public
    with Sshd(directory / "sshd-1", public) as one, Sshd(directory / "sshd-2", public) as two, ci_issuer() as issuer:
        stage = DeployStage(directory, dict(zip(WEB, (one, two), strict=True)), extra, issuer)
        _write(stage)
        _sign_in(stage)
        stage.start()
        try:
            yield stage
        finally:
            stage.stop()
