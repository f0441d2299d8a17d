"""Token exchange over HTTP with a gateway of its own, and verifying a deploy token."""

import base64
import json
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from threading import local
from urllib.parse import urlencode, urlsplit

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.core.deploy_token import Caveat, Tag, VerifiedDeployToken, attenuate, verify
from gateway.demo.ci_issuer import AUDIENCE, CiIssuer, ci_issuer
from gateway.demo.ports import free_port
from gateway.demo.processes import Processes
from tests.bench.meter import Row, cpu_of_tree
from tests.bench.servers import GW

ROOT = Path(__file__).parents[2]
CALLERS = 8
_FORM = {"content-type": "application/x-www-form-urlencoded"}
_TRUST = """
version: 1
issuers:
  github: {{kind: github, issuer: "{url}", audience: "{audience}", exchanges_per_run: 1000}}
rules:
  web:
    issuer: github
    claims: {{repository_owner_id: 65, repository_id: 1296269, ref: refs/heads/main, environment: production}}
    allow: [{{targets: [web-1, web-2], verbs: [deploy, rollback]}}]
"""
_TARGET = """
  {name}:
    kind: ssh
    service: web
    environment: production
    host: 127.0.0.1
    port: 22
    host_keys: ["{key}"]
    levels: {{shell: {{account: deploy}}}}
    verbs:
      deploy: {{argv: [/bin/true], account: deploy}}
      rollback: {{argv: [/bin/true], account: deploy}}
"""


def measure(processes: Processes, work: Path, workers: int, *, quick: bool) -> list[Row]:
    rounds, per_round = (3, 100) if quick else (5, 300)
    with ExitStack() as open_now:
        issuer = open_now.enter_context(ci_issuer())
        url, pid = _gateway(processes, work, issuer, workers)
        api = _Callers(url)
        pool = open_now.enter_context(ThreadPoolExecutor(CALLERS))
        single = Row("token exchange, one caller, p50", "ms", is_rate=False, cpu_unit="ms each")
        late = Row("token exchange, one caller, p99", "ms", is_rate=False)
        rate = Row(f"token exchange, {CALLERS} callers", "per second", is_rate=True, cpu_unit="ms each")
        token = _exchange(api, _body(issuer))  # keys are fetched, code is warm
        for number in range(rounds):
            bodies = [_body(issuer, f"{number}") for _ in range(per_round)]
            before, times = cpu_of_tree(pid), sorted(_timed(api, body) for body in bodies)
            single.add("gateway", statistics.median(times) * 1000, (cpu_of_tree(pid) - before) * 1000 / per_round)
            late.add("gateway", times[len(times) * 99 // 100] * 1000)
            bodies = [_body(issuer, f"{number}+") for _ in range(per_round)]
            before, start = cpu_of_tree(pid), time.perf_counter()
            list(pool.map(lambda body: _exchange(api, body), bodies))
            took = time.perf_counter() - start
            rate.add("gateway", per_round / took, (cpu_of_tree(pid) - before) * 1000 / per_round)
    key_file = work / "state" / "keys" / "deploy.key"
    return [single, late, rate, *_verifying(token, key_file, rounds)]


def _verifying(token: str, key_file: Path, rounds: int) -> list[Row]:
    keys = [base64.b64decode(key_file.read_text().splitlines()[-1])]
    narrowed = token
    for caveat in (Caveat(Tag.TARGET, frozenset({"web-1"})), Caveat(Tag.VERB, frozenset({"deploy"}))):
        narrowed = attenuate(narrowed, caveat)
    rows = []
    for name, text in (("as minted", token), ("two caveats", narrowed)):
        row = Row(f"verify a deploy token, {name}", "µs", is_rate=False)
        at = datetime.now(UTC)
        assert isinstance(verify(keys, text, at), VerifiedDeployToken)
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(2000):
                verify(keys, text, at)
            row.add("gateway", (time.perf_counter() - start) / 2000 * 1e6)
        rows.append(row)
    return rows


class _Callers(local):
    """A connection for each thread, from the standard library: what a caller costs is CPU that the gateway lacks."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.wire = HTTPConnection(str(parts.hostname), parts.port, timeout=30)


def _timed(api: _Callers, body: str) -> float:
    start = time.perf_counter()
    _exchange(api, body)
    return time.perf_counter() - start


def _exchange(api: _Callers, body: str) -> str:
    api.wire.request("POST", "/oauth/token", body, _FORM)
    answer = api.wire.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(text.decode())
    return str(json.loads(text)["access_token"])


def _body(issuer: CiIssuer, run: str = "0") -> str:
    return urlencode(
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": issuer.github(run_id=run),
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
    )


def _gateway(processes: Processes, work: Path, issuer: CiIssuer, workers: int) -> tuple[str, int]:
    """The API alone, with our policies; what it stores is as durable as ever."""
    policies = work / "policies"
    shutil.copytree(ROOT / "policies", policies, ignore=shutil.ignore_patterns("trust"))
    (policies / "trust").mkdir()
    (policies / "trust" / "a.yaml").write_text(_TRUST.format(url=issuer.url, audience=AUDIENCE))
    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    targets = "".join(_TARGET.format(name=name, key=public) for name in ("web-1", "web-2"))
    (work / "catalogue.yaml").write_text(f"version: 1\nservices: {{web: {{}}}}\ntargets:{targets}")
    port = free_port()
    settings: Sequence[tuple[str, object]] = (
        ("state_dir", str(work / "state")), ("catalogue_file", str(work / "catalogue.yaml")), ("policy_dir", str(policies)),
    )  # fmt: skip
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings]
    text = "\n".join([*lines, f"[api]\nport = {port}", "[ssh]\nenabled = false", "[postgres]\nenabled = false\n"])
    (work / "gateway.toml").write_text(text)
    (work / "log").mkdir(exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    command = [*GW, "serve", "--config", str(work / "gateway.toml"), "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pid = processes.start("exchange-gateway", command, log=work / "log" / "gateway.log", env=environment)
    processes.await_ready("exchange-gateway", lambda: _answers(url) and _listeners(port) == workers, 90)
    return url, pid


def _listeners(port: int) -> int:
    """How many sockets listen there: a worker that comes later gets none of the connections that are there by then."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", timeout=1, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False
