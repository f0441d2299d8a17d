"""The pipeline of the stage: a CI provider, what the gateway trusts of it, and one job at a time, played on request."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from urllib.parse import urlencode

from gateway.demo.ci_issuer import JOB, ci_issuer
from gateway.demo.postgres import write_secret
from gateway.demo.processes import Processes, StageError, listens

NAME = "CI provider"
_REPOSITORY = Path(__file__).resolve().parents[2]
_TRUST = """\
# Written by gw demo at each start: the jobs of acme/web on main, in the environment production, may run these verbs.
version: 1
issuers:
  demo-ci:
    kind: github
    issuer: {issuer}
    audience: {audience}
rules:
  web-production:
    issuer: demo-ci
    description: The shop's deploy workflow
    claims:
      repository_owner_id: 65
      repository_id: 1296269
      ref: refs/heads/main
      environment: production
      job_workflow_ref: acme/web/.github/workflows/deploy.yml@refs/heads/main
    allow:
      - targets: [{servers}]
        verbs: [deploy, rollback, restart]
      - targets: [orders-db]
        verbs: [migrate]
"""


def start(processes: Processes, state: Path, port: int) -> str:
    """Start the issuer; its URL."""
    secret = write_secret(state / "secrets" / "ci-job.secret", secrets.token_hex(16))
    argv = [sys.executable, "-m", "gateway.demo.pipeline", str(port), str(secret)]
    processes.start(NAME, argv, log=state / "log" / "ci.log")
    processes.await_ready(NAME, lambda: listens("127.0.0.1", port), 30)
    return f"http://127.0.0.1:{port}"


def write_policies(state: Path, issuer: str, audience: str, servers: list[str]) -> Path:
    """The repository's policies with a trust policy for the stage's jobs; the directory."""
    directory = state / "policies"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(_REPOSITORY / "policies", directory, ignore=shutil.ignore_patterns("trust"))
    (directory / "trust").mkdir()
    text = _TRUST.format(issuer=issuer, audience=audience, servers=", ".join(servers) or "web-1")
    (directory / "trust" / "demo.yaml").write_text(text)
    return directory


def play(state: Path, words: tuple[str, ...]) -> int:
    """Run docs/ci/gw-deploy.sh as a GitHub job of acme/web would; its exit status."""
    try:
        stage = json.loads((state / "stage.json").read_text())
        secret = (state / "secrets" / "ci-job.secret").read_text()
    except (OSError, ValueError):
        raise StageError(f"no demo is running in {state}; start it with: make demo") from None
    claims = urlencode({"run_id": time.time_ns() // 1_000_000, "run_number": 1})
    job = {
        "GW": str(Path(sys.executable).with_name("gw")),
        "GW_URL": str(stage["api"]),
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{stage['ci']}{JOB}?api-version=2.0&{claims}",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": secret,
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GW_", "GATEWAY_"))}
    script = str(_REPOSITORY / "docs" / "ci" / "gw-deploy.sh")
    return subprocess.run([script, *words], env={**clean, **job}, check=False).returncode


def main(port: int, secret_file: Path) -> None:
    """Be the issuer until told to stop."""
    stopped = Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _number, _frame: stopped.set())
    with ci_issuer(port=port) as issuer:
        issuer.job_secret = secret_file.read_text()
        stopped.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
