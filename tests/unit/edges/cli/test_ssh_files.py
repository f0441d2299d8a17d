from pathlib import Path
from typing import Any

import pytest

from gateway.edges.cli import ssh_files
from gateway.edges.cli.output import Failure

DOOR = {"host": "gw.example", "port": 2222, "host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 gateway"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GW_HOME", str(tmp_path))
    monkeypatch.setenv("GW_URL", "http://127.0.0.1:1")
    return tmp_path


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "h\n    ProxyCommand touch /tmp/x; false"}, {"host": "h\n"}, {"host": "h\r    ProxyCommand x"},
        {"host": "h ProxyCommand=x"}, {"host": "-oProxyCommand=x"}, {"host": ""}, {"host": 'h"'}, {"host": "h\x85x"},
        {"host": "h" * 300}, {"host": None, "port": None}, {"port": "22\n    ProxyCommand x"}, {"port": 0},
        {"port": 65536}, {"port": "x"}, {"host_key": ""}, {"host_key": "ssh-ed25519"},
        {"host_key": "ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"}, {"host_key": "ssh-ed25519 AAAA\n"},
        {"host_key": "@cert-authority * ssh-ed25519 AAAA"},
    ],
)  # fmt: skip
def test_a_door_that_is_none_reaches_no_file(home: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(Failure, match="no SSH door"):
        ssh_files.config({**DOOR, **wrong}, ["web-1"], refreshes=False)
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("missing", ["host", "port", "host_key"])
def test_a_door_lacks_nothing(home: Path, missing: str) -> None:
    with pytest.raises(Failure, match="no SSH door"):
        ssh_files.config({key: value for key, value in DOOR.items() if key != missing}, ["web-1"], refreshes=False)


@pytest.mark.parametrize(
    ("host", "written"),
    [("10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1%%eth0"), ("::1", "::1"), ("gw-1.example", "gw-1.example")],
)
def test_names_and_addresses_are_hosts(home: Path, host: str, written: str) -> None:
    assert f"    HostName {written}\n" in ssh_files.config({**DOOR, "host": host}, ["web-1"], refreshes=False)
    assert (home / "ssh" / "known_hosts").read_text() == "gw-door ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n"
