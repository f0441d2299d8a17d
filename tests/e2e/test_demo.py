import os
import subprocess
from pathlib import Path

import pytest

from gateway.demo.processes import descendants
from tests.e2e.stage import GW, directory, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_the_stage_says_what_scripts_rely_on_and_leaves_nothing_behind() -> None:
    with directory() as path:
        with running(path) as stage:
            assert set(stage.facts) >= {"api", "ssh", "postgres", "accounts", "audit_key"}
            assert set(stage.facts["accounts"]) == {"oncall", "developer", "lead", "auditor"}
            assert {stage.facts[door]["host"] for door in ("ssh", "postgres")} == {"127.0.0.1"}
            started = [stage.process.pid, *descendants(stage.process.pid)]
            assert len(started) > 5
            for secret in ("stage.json", "oncall.env", "secrets/postgres.dsn"):
                assert (path / secret).stat().st_mode & 0o077 == 0
            second = subprocess.run(
                [*GW, "demo", "--json", "--dir", str(path)], capture_output=True, text=True, timeout=60
            )
            assert second.returncode == 1
            assert "running" in second.stderr
        assert stage.process.returncode == 0
        assert [pid for pid in started if _alive(pid)] == []
        assert not (path / "stage.json").exists()


def test_a_person_signs_in_by_device_flow_and_the_demo_confirms() -> None:
    with directory() as path, running(path) as stage:
        env = {name: value for name, value in stage.env("oncall").items() if name != "GW_TOKEN"}
        home = path / "somebody"
        env |= {"GW_HOME": str(home)}
        login = subprocess.Popen(
            [*GW, "login"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert login.stdout is not None
        code = ""
        for line in login.stdout:
            found = [
                word.strip(".,:")
                for word in line.split()
                if len(word.strip(".,:").replace("-", "")) == 8 and word.isupper()
            ]
            if found:
                code = found[0]
                break
        confirmed = subprocess.run(
            [*GW, "demo", "--dir", str(path), "confirm", code, "--as", "oncall"],
            env={**os.environ, "GW_HOME": str(home)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert confirmed.returncode == 0, confirmed.stderr
        login.communicate(timeout=60)
        assert login.returncode == 0
        who = subprocess.run([*GW, "whoami", "--json"], env=env, capture_output=True, text=True, timeout=60)
        assert '"oncall"' in who.stdout


def test_a_pipeline_deploys_on_the_stage_and_whoever_is_on_call_goes_back() -> None:
    with directory() as path, running(path) as stage:

        def job(*words: str, status: int = 0) -> str:
            done = subprocess.run(
                [*GW, "demo", "--dir", str(path), "ci", *words], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == status, done.stdout + done.stderr
            return done.stdout + done.stderr

        for version in ("1.0", "1.1"):
            assert f"web-2 runs {version}" in job("deploy", "web", "--param", f"version={version}")
        assert "web-2 (2 of 2) not-run" in job("deploy", "web", "--param", "version=broken", status=7)
        assert "web-1 runs 1.1" in stage.gw("oncall", "deploy", "rollback", "web", "--to", "previous").stdout
        assert "web-2 runs 1.0" in stage.gw("oncall", "deploy", "rollback", "web", "--to", "previous").stdout
        script = path / "refunds.sql"
        script.write_text("CREATE TABLE refunds (id int)")
        assert "COMMIT" in job("migrate", "orders-db", "--file", str(script))
        script.write_text("SELECT email FROM customers")
        assert "permission denied" in job("migrate", "orders-db", "--file", str(script), status=3)
