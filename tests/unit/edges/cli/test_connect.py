import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.edges.cli import connect
from tests.unit.edges.cli.conftest import DOOR_KEY, Gw

ASK = ("request", "orders-db", "--level", "read", "--reason", "x")
GW = [sys.executable, "-c", "from gateway.edges.cli.main import make_cli; make_cli()()"]


@pytest.fixture
def oncall(gw: Gw) -> Gw:
    oncall = gw.as_("oncall")
    assert oncall(*ASK).exit_code == 0
    return oncall


def run(gw: Gw, *args: str, path: Path | None = None, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, **{k: v for k, v in gw.env().items() if v}}
    if path is not None:
        env["PATH"] = str(path)
    return subprocess.run([*GW, *args], env=env, input=stdin, capture_output=True, text=True, timeout=60)


def test_a_url_for_any_client(oncall: Gw) -> None:
    told = oncall.json("connect", "orders-db")
    url = urlsplit(told["url"])
    assert (url.scheme, url.username, url.hostname, url.port) == ("postgresql", "oncall", "127.0.0.1", 5433)
    assert url.path == "/orders-db"
    assert (url.password or "").startswith("gwt_")
    query = parse_qs(url.query)
    assert query["sslmode"] == ["verify-full"]
    assert Path(query["sslrootcert"][0]).read_text() == "CA\n"
    assert told["env"]["PGPASSWORD"] == url.password
    shown = oncall("connect", "orders-db").output
    assert "postgresql://oncall:gwt_" in shown
    assert "[orders-db]" in shown
    assert "export PGSSLMODE=verify-full" in shown


def test_a_server_has_a_command_instead(gw: Gw) -> None:
    oncall = gw.as_("oncall")
    assert oncall("connect", "web-1").exit_code == 3
    oncall("request", "web-1", "--level", "shell", "--reason", "disk full", "--incident", "INC-1042")
    told = oncall.json("connect", "web-1", "--once")
    assert told["kind"] == "ssh"
    assert told["command"] == "gw ssh web-1"
    assert told["user"] == "oncall%web-1"
    assert told["password"].startswith("gwt_")
    shown = oncall("connect", "web-1").output
    assert "-l oncall%web-1" in shown
    assert "password: gwt_" in shown
    assert oncall("psql", "web-1").exit_code == 5


def test_without_a_grant_the_no_says_how_to_get_one(gw: Gw) -> None:
    told = gw.as_("developer")("connect", "orders-db")
    assert told.exit_code == 3
    assert "gw request orders-db" in told.stderr


def fake(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    return folder


SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


def test_psql_gets_the_secret_by_environment_only(oncall: Gw, tmp_path: Path) -> None:
    probe = "import sys\nif '-w' in sys.argv: sys.exit('connection refused')\n"
    ran = run(oncall, "psql", "orders-db", "--", "-c", "select 1", path=fake(tmp_path / "bin", "psql", probe + SHOW))
    args, env = json.loads(ran.stdout)
    assert args == ["-c", "select 1"]
    assert env["PGPASSWORD"].startswith("gwt_")
    assert (env["PGHOST"], env["PGUSER"], env["PGDATABASE"]) == ("127.0.0.1", "oncall", "orders-db")
    assert env["PGSSLMODE"] == "verify-full"
    assert "GW_TOKEN" not in env


@pytest.mark.parametrize("before", [True, False])
def test_the_level_may_stand_before_or_after_the_target(oncall: Gw, tmp_path: Path, before: bool) -> None:
    path = fake(tmp_path / "bin", "psql", "import sys\nif '-w' in sys.argv: sys.exit(1)\n" + SHOW)
    level = ["--level", "read"]
    args = ["psql", *level, "orders-db", "-At"] if before else ["psql", "orders-db", *level, "--", "-At"]
    assert json.loads(run(oncall, *args, path=path).stdout)[0] == ["-At"]


def test_a_psql_without_tls_goes_through_a_private_socket(oncall: Gw, tmp_path: Path) -> None:
    refuse = "sys.exit('psql: error: sslmode value \"require\" invalid when SSL support is not compiled in')"
    look = "print(os.environ['PGHOST'], os.environ['PGSSLMODE'], oct(os.stat(os.environ['PGHOST']).st_mode & 0o777))\n"
    script = (
        f"import os, sys\nif '-w' in sys.argv: {refuse}\n{look}print(os.listdir(os.environ['PGHOST']))\nsys.exit(7)"
    )
    folder = fake(tmp_path / "bin", "psql", script)
    (oncall.home).mkdir(exist_ok=True)
    ca = _real_ca(tmp_path)
    ran = run_with_ca(oncall, ca, "psql", "orders-db", path=folder)
    assert ran.returncode == 7, ran.stderr
    host, mode, rights = ran.stdout.splitlines()[0].split()
    assert (mode, rights) == ("disable", "0o700")
    assert ran.stdout.splitlines()[1] == "['.s.PGSQL.5432']"
    assert not Path(host).exists()


def _real_ca(tmp_path: Path) -> Path:
    from datetime import UTC, datetime

    from gateway.adapters.door_tls import ensure_door_certificate

    _, _, ca = ensure_door_certificate(tmp_path / "tls", ("127.0.0.1", "localhost"), datetime.now(UTC))
    return ca


def run_with_ca(gw: Gw, ca: Path, *args: str, path: Path) -> "subprocess.CompletedProcess[str]":
    code = (
        "import sys; from gateway.edges.cli import client; from pathlib import Path; real = client.Api.get\n"
        "def get(self, path, **q):\n"
        "    answer = real(self, path, **q)\n"
        f"    if path == '/api/door': answer['postgres']['ca_pem'] = Path({str(ca)!r}).read_text()\n"
        "    return answer\n"
        "client.Api.get = get\n"
        "from gateway.edges.cli.main import make_cli; make_cli()()"
    )
    env = {**os.environ, **{k: v for k, v in gw.env().items() if v}, "PATH": str(path)}
    return subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True, timeout=60)


def test_a_certificate_instead_of_a_ticket(oncall: Gw, monkeypatch: pytest.MonkeyPatch) -> None:
    no = oncall("connect", "orders-db", "--certificate")
    assert no.exit_code == 1
    assert "takes no certificates" in no.output
    assert oncall("connect", "orders-db", "--certificate", "--once").exit_code == 2
    door = connect._database_door
    monkeypatch.setattr(connect, "_database_door", lambda api: {**door(api), "certificates": True, "binds": True})
    told = oncall.json("connect", "orders-db", "--certificate", "--level", "read")
    url = urlsplit(told["url"])
    assert (url.username, url.password, url.path) == ("oncall", None, "/orders-db%2Fread")
    assert told["env"].keys().isdisjoint({"PGPASSWORD", "PGCHANNELBINDING"})
    key = Path(told["env"]["PGSSLKEY"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    assert "sslcert=" in oncall("connect", "orders-db", "--certificate").stdout
    assert key.read_bytes() == before


def test_a_door_that_binds_is_held_to_it(oncall: Gw, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libpq would otherwise give the ticket itself to whoever asked for it (channel_binding's default is `prefer`)."""
    door = connect._database_door
    assert "PGCHANNELBINDING" not in json.loads(oncall("connect", "orders-db", "--json").stdout)["env"]
    monkeypatch.setattr(connect, "_database_door", lambda api: {**door(api), "binds": True})
    assert json.loads(oncall("connect", "orders-db", "--json").stdout)["env"]["PGCHANNELBINDING"] == "require"
    assert "\nchannel_binding=require\n" in oncall("connect", "orders-db").stdout


def test_the_client_that_is_missing_is_named(oncall: Gw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run(oncall, "ssh", "web-1", path=tmp_path)
    assert ran.returncode == 1
    assert "No ssh client" in ran.stderr
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(connect.output.Failure):
        connect._find_psql()


# ---------------------------------------------------------------- ssh


def test_a_configuration_that_openssh_reads(oncall: Gw, tmp_path: Path) -> None:
    ran = run(oncall, "ssh-config")
    assert ran.returncode == 0, ran.stderr
    assert oncall.token not in ran.stdout
    assert "orders-db" not in ran.stdout
    file = tmp_path / "config"
    file.write_text(ran.stdout)
    ssh = shutil.which("ssh")
    assert ssh, "OpenSSH's client is needed by this test"
    env = {**os.environ, **{k: v for k, v in oncall.env().items() if v}}
    read = subprocess.run([ssh, "-G", "-F", file, "web-1.gw"], env=env, capture_output=True, text=True, timeout=60)
    told = dict(line.split(" ", 1) for line in read.stdout.splitlines() if " " in line)
    assert read.returncode == 0, read.stderr
    assert (told["hostname"], told["port"], told["user"]) == ("127.0.0.1", "2222", "web-1")
    assert told["hostkeyalias"] == "gw-door"
    assert told["identitiesonly"] == "yes"
    assert told["stricthostkeychecking"] in ("true", "yes")
    assert told["certificatefile"].strip('"') == str(oncall.home / "ssh" / "id_ed25519-cert.pub")
    assert (oncall.home / "ssh" / "known_hosts").read_text().split() == ["gw-door", *DOOR_KEY.split()[:2]]
    assert stat.S_IMODE((oncall.home / "ssh" / "id_ed25519").stat().st_mode) == 0o600


def test_the_configuration_refreshes_the_certificate_by_itself(oncall: Gw, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(run(oncall, "ssh-config").stdout)
    certificate = oncall.home / "ssh" / "id_ed25519-cert.pub"
    certificate.unlink()
    env = {**os.environ, **{k: v for k, v in oncall.env().items() if v}}
    ssh = shutil.which("ssh") or "ssh"
    subprocess.run([ssh, "-G", "-F", file, "web-1.gw"], env=env, capture_output=True, timeout=60, check=True)
    assert certificate.exists()


def test_a_fresh_certificate_is_left_alone_and_an_old_one_replaced(oncall: Gw) -> None:
    assert oncall("ssh-cert", "--ensure").exit_code == 0
    certificate = oncall.home / "ssh" / "id_ed25519-cert.pub"
    first = certificate.read_text()
    assert first.startswith("ssh-ed25519-cert-v01@openssh.com ")
    assert oncall("ssh-cert", "--ensure", GW_URL=oncall.url).output == ""
    assert certificate.read_text() == first
    note = oncall.home / "ssh" / "certificate.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "expires_at": "2020-01-01T00:00:00+00:00"}))
    oncall("ssh-cert", "--ensure")
    assert certificate.read_text() != first


def test_ensuring_a_good_certificate_needs_no_gateway(oncall: Gw) -> None:
    oncall("ssh-cert", "--ensure")
    offline = Gw(oncall.url, oncall.home, oncall.stage, oncall.token)
    code = (
        "import sys; from gateway.edges.cli.main import make_cli\n"
        "try:\n    make_cli()()\nfinally:\n    print([m for m in ('httpx2', 'cryptography', 'keyring', 'rich') if m in sys.modules])"
    )
    env = {**os.environ, **{k: v for k, v in offline.env().items() if v}}
    ran = subprocess.run(
        [sys.executable, "-c", code, "ssh-cert", "--ensure"], env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == "[]"
    assert ran.returncode == 0


def test_nobody_goes_on_with_somebody_elses_certificate(oncall: Gw) -> None:
    oncall("ssh-cert", "--ensure")
    certificate = oncall.home / "ssh" / "id_ed25519-cert.pub"
    first = certificate.read_text()
    lead = oncall.as_("lead")
    Gw(oncall.url, oncall.home, oncall.stage, lead.token)("ssh-cert", "--ensure")
    assert certificate.read_text() != first


def test_ssh_is_called_with_a_private_configuration(oncall: Gw, tmp_path: Path) -> None:
    ran = run(oncall, "ssh", "web-1", "--level", "shell", "--", "ls", "-l", path=fake(tmp_path / "bin", "ssh", SHOW))
    assert ran.returncode == 0, ran.stderr
    args, env = json.loads(ran.stdout)
    assert args[2:] == ["-l", "shell%web-1", "web-1.gw", "ls", "-l"]
    assert args[0] == "-F"
    assert stat.S_IMODE(Path(args[1]).stat().st_mode) == 0o600
    assert "Match" not in Path(args[1]).read_text()
    assert oncall.token not in json.dumps([args, env])


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "a b", "a\nHost *", "../x", "a%h", ""])
def test_names_that_are_none_reach_no_configuration(oncall: Gw, tmp_path: Path, name: str) -> None:
    ran = run(oncall, "ssh", "--", name, path=fake(tmp_path / "bin", "ssh", SHOW))
    assert ran.returncode == 2
    assert not ran.stdout
