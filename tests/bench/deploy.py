"""What a deploy through the gateway costs over plain `ssh host command`, the start of the command line included."""

import os
import secrets
import subprocess
from datetime import UTC, datetime, timedelta

from gateway.adapters.deploy_keys import DeployKeyring
from gateway.adapters.trust_policies import load
from gateway.core.deploy_token import Right, mint
from gateway.core.principal import Workload
from tests.bench.meter import Row, interleaved, timed
from tests.bench.servers import GW, SshPaths, Stage

PATHS = ["ssh host command", "gw deploy", "gw deploy in a job"]
_WORDS = ("deploy", "restart", "web-1")
_RULE = "web-production"  # of gw demo
_JOB = Workload("wkl_bench", "bench", _RULE, "https://ci.bench", "bench", "bench/bench", "refs/heads/main", "", "1.1")


def measure(stage: Stage, paths: SshPaths, *, quick: bool) -> list[Row]:
    """`gw deploy` with a deploy token in hand; and as a job whose own token is exchanged first."""
    row = Row("one command, p50", "ms", is_rate=False, cpu_unit="ms")
    host = next(iter(paths.hosts.values()))  # direct
    plain = ["ssh", "-F", str(paths.config), host, "/bin/echo", "web-1", "restarted"]
    ways = {
        PATHS[0]: lambda: _once(plain, dict(os.environ)),
        PATHS[1]: lambda: _once([*GW, *_WORDS], _with_token(stage)),
        PATHS[2]: lambda: _once([*GW, *_WORDS], _as_job(stage)),
    }
    gateway = dict.fromkeys(PATHS[1:], stage.pids["gateway"])
    interleaved(row, ways, gateway, 5 if quick else 25, per=1000)
    first = row.values[PATHS[0]]
    added = Row("added to it, p50", "ms", is_rate=False)
    for name in PATHS[1:]:
        for value, base in zip(row.values[name], first, strict=True):
            added.add(name, value - base)
    return [row, added]


def _once(argv: list[str], env: dict[str, str]) -> float:
    return 1000 * timed(
        lambda: subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )
    )


def _clean(stage: Stage) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GW_", "GATEWAY_"))}
    return {**kept, "GW_URL": str(stage.facts["api"]), "GW_HOME": str(stage.directory / "bench"), "GW_KEYRING": "off"}


def _with_token(stage: Stage) -> dict[str, str]:
    """Of a run of its own, so that nothing is answered from memory."""
    at = datetime.now(UTC)
    workload = Workload(**{**{n: getattr(_JOB, n) for n in _JOB.__dataclass_fields__}, "run": secrets.token_hex(8)})
    key = DeployKeyring(stage.directory / "gateway" / "keys" / "deploy.key").root_keys()[0]
    token = mint(
        key, id=f"dtk_{secrets.token_hex(8)}", workload=workload, rights=[Right("web-1", "restart")], issued_at=at,
        not_after=at + timedelta(minutes=5), terms=load(stage.directory / "policies" / "trust").rules[_RULE].terms,
    )  # fmt: skip
    return {**_clean(stage), "GW_TOKEN": token}


def _as_job(stage: Stage) -> dict[str, str]:
    secret = (stage.directory / "secrets" / "ci-job.secret").read_text()
    url = f"{stage.facts['ci']}/job?api-version=2.0&run_id={secrets.randbelow(10**12)}"
    return {**_clean(stage), "ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": secret}
