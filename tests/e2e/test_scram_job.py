"""A gateway whose database door asks for SCRAM, as people use it: gw psql, gw connect, a ticket for one connection."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.edges.cli.tunnel import PORT, Tunnel
from tests.e2e.stage import Stage, directory, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, directory() as path:
        patch.setenv("GATEWAY_POSTGRES__AUTHENTICATION", "scram")
        with running(path) as up:
            up.ask("orders-db", "read")
            yield up


def psql(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["psql", "-XAtc", "SELECT 40 + 2", url], capture_output=True, text=True, timeout=60)


def test_gw_psql_insists_on_a_bound_proof(stage: Stage) -> None:
    assert stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT 40 + 2").stdout == "42\n"
    told = stage.json("oncall", "connect", "orders-db")
    assert told["env"]["PGCHANNELBINDING"] == "require"
    assert "channel_binding" not in told["url"]  # some drivers would send it on as a parameter of the session
    assert psql(told["url"]).stdout == "42\n"
    assert psql(told["url"] + "&channel_binding=require").stdout == "42\n"


def test_a_psql_without_tls_proves_its_ticket_through_the_tunnel(stage: Stage) -> None:
    env = stage.json("oncall", "connect", "orders-db")["env"]
    with Tunnel(env["PGHOST"], int(env["PGPORT"]), Path(env["PGSSLROOTCERT"]), binds=True) as folder:
        told = {**env, "PGHOST": folder, "PGPORT": str(PORT), "PGSSLMODE": "disable", "PGCHANNELBINDING": "prefer"}
        done = subprocess.run(
            ["psql", "-XAtc", "SELECT 40 + 2"], env={**os.environ, **told}, capture_output=True, text=True, timeout=60
        )
    assert done.stdout == "42\n", done.stderr


def test_a_tool_without_tls_comes_through_a_tunnel_of_its_own(stage: Stage) -> None:
    """The door asks for SCRAM here; psql plays the tool, first as told and then as one that prefers TLS."""
    with stage.start("oncall", "tunnel", "orders-db", "--json") as tunnel:
        assert tunnel.stdout is not None
        told = json.loads(tunnel.stdout.readline())
        assert told["url"].startswith("postgresql://oncall:gwt_")
        assert "@127.0.0.1:" in told["url"]
        assert told["env"]["PGSSLMODE"] == "disable"
        assert psql(told["url"]).stdout == "42\n"
        assert psql(told["url"].replace("sslmode=disable", "sslmode=prefer")).stdout == "42\n"
        assert "This ticket is not valid" in psql(told["url"].replace("gwt_", "gwt_x")).stderr
        tunnel.send_signal(signal.SIGINT)
        assert tunnel.wait(30) == 0
    assert "refused" in psql(told["url"]).stderr


def test_a_ticket_for_one_connection_opens_one(stage: Stage) -> None:
    url = stage.json("oncall", "connect", "orders-db", "--once")["url"]
    wrong = psql(url.replace("gwt_", "gwt_x"))
    assert "This ticket is not valid" in wrong.stderr
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(psql, [url] * 6))
    assert sorted(each.stdout for each in done) == [""] * 5 + ["42\n"]
    assert all("This ticket is not valid" in each.stderr for each in done if each.returncode)
