import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from gateway.adapters.catalogue import CatalogueFile
from gateway.adapters.incidents_file import IncidentsFile
from gateway.adapters.oncall.static import read_schedules
from gateway.demo import config, owners, ports
from gateway.demo.postgres import Database, write_secret
from gateway.demo.processes import Owner, StageError
from gateway.demo.sshd import Server, host_key
from gateway.demo.stage import only_one
from gateway.settings import load_settings
from tests.fakes import FakeClock


def _parts(state: Path, *, server: bool = True) -> config.Parts:
    database = Database("127.0.0.1", 5432, state / "a.dsn", state / "b.dsn", state / "c.dsn")
    line = host_key(state)[1]
    numbers = {name: 20000 + i for i, name in enumerate(ports.NAMES)}
    servers = {name: Server("127.0.0.1", 22, line) for name in ("web-1", "web-2")} if server else {}
    return config.Parts(database, servers, "http://127.0.0.1:9", numbers, "http://127.0.0.1:8")


@pytest.mark.parametrize("server", [True, False])
def test_the_gateway_reads_what_the_stage_writes(tmp_path: Path, server: bool) -> None:
    state = tmp_path / "a: place # with 'odd' letters"
    state.mkdir()
    config.write(state, _parts(state, server=server))
    settings = load_settings(state / "gateway.toml")
    assert settings.policy_dir.is_dir()
    targets = CatalogueFile(settings.catalogue_file).current().targets
    assert set(targets) == {"orders-db", "staging-db"} | ({"web-1", "web-2"} if server else set())
    assert list(targets["orders-db"].levels) == ["read", "write", "admin"]
    assert targets["orders-db"].admin_dsn_file == str(state / "a.dsn")
    assert settings.incidents_file is not None
    (incident,) = IncidentsFile(settings.incidents_file).fetch(FakeClock().now())
    assert (incident.id, incident.service, incident.closed_at) == ("INC-1042", "orders", None)
    schedules = read_schedules(settings.rota.files[0].read_bytes(), "rota.yaml")
    assert [(s.escalation, s.rotation.people) for s in schedules] == [(1, ("oncall",)), (2, ("lead",))]


def test_ports_are_kept_and_a_taken_one_is_named(tmp_path: Path) -> None:
    first = ports.choose(tmp_path, None)
    assert set(first) == set(ports.NAMES)
    assert ports.choose(tmp_path, None) == first
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", first["idp"]))
        taker.listen()
        with pytest.raises(StageError, match=str(first["idp"])):
            ports.choose(tmp_path, None)


def test_no_outgoing_connection_is_given_a_servers_port() -> None:
    """One in fifteen stages did not come up: its port had become some connection's before its sshd listened."""
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200))
        given = {listener.getsockname()[1]}
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(listener.getsockname()))
            given.add(connection.getsockname()[1])
    assert not [port for port in found if min(given) <= port <= max(given)]


def test_broken_memory_of_ports_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    assert set(ports.choose(tmp_path, None)) == set(ports.NAMES)


def test_one_stage_per_directory(tmp_path: Path) -> None:
    with only_one(tmp_path / "stage"), pytest.raises(StageError, match="running"), only_one(tmp_path / "stage"):
        pass


def test_secrets_are_for_their_owner_from_the_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    before = os.umask(0)
    try:
        write_secret(path, "one")
        write_secret(path, "two")
    finally:
        os.umask(before)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_who_reads_a_secret_while_it_is_written_finds_one(tmp_path: Path) -> None:
    path = write_secret(tmp_path / "secret", "0")
    done = Event()
    seen: set[str] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(read)
        for n in range(2, 500):
            write_secret(path, str(n))
        done.set()
        reading.result(20)
    assert "" not in seen


def test_a_private_home_is_not_opened_up_for_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    stranger = Owner("stranger", 64000, 64000)
    assert owners.reachable_directory(private / "data", None, "x") == private / "data"
    monkeypatch.setattr(owners, "SHARED", tmp_path / "shared")
    assert owners.reachable_directory(private / "data", stranger, "x") == tmp_path / "shared" / "x"
    assert private.stat().st_mode & 0o777 == 0o700


def test_the_pager_prints_one_line_whatever_it_is_sent(tmp_path: Path) -> None:
    port = ports.free_port()
    log = tmp_path / "log"
    with (
        log.open("w") as out,
        subprocess.Popen([sys.executable, "-m", "gateway.demo.pager", str(port)], stdout=out, stderr=out) as pager,
    ):
        try:
            _post(port, json.dumps({"text": "Break-glass\n\x1b[31moncall"}).encode())
            with pytest.raises(urllib.error.HTTPError):
                _post(port, b"[1]")
        finally:
            pager.terminate()
    assert log.read_text() == "Break-glass [31moncall\n"


def _post(port: int, body: bytes) -> None:
    for attempt in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", body, timeout=10).close()
        except urllib.error.HTTPError as no:
            no.close()
            raise
        except urllib.error.URLError:
            if attempt == 99:
                raise
            import time

            time.sleep(0.05)
        else:
            return
