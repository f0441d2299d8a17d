import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.session import EndReason
from gateway.core.target import FileRule, SshRules
from gateway.demo.ports import free_port
from gateway.edges.proxy import ssh_transport
from gateway.edges.proxy.ssh_openings import OpeningTransport
from tests.e2e.ssh_stage import Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.e2e.test_ssh_door import _resident, _settle
from tests.sshd import Sshd

pytestmark = pytest.mark.servers


def allow(stage: Stage, **rules: object) -> None:
    stage.level = replace(stage.level, ssh=replace(SshRules(), **rules))  # type: ignore[arg-type]


class Upper:
    """A server that answers in capitals."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.met = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.met += 1
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(65536):
                sock.sendall(data.upper())


@pytest.fixture
def upper() -> Iterator[Upper]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Upper(listener)
        listener.shutdown(socket.SHUT_RDWR)


def port_of(upper: Upper) -> int:
    return int(upper.listener.getsockname()[1])


@contextmanager
def unix_upper(path: Path) -> Iterator[Upper]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield Upper(listener)
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def running(stage: Stage, *args: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = stage.ssh_args("-N", "-o", "ExitOnForwardFailure=yes", *args, "web-1.gw")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()  # OpenSSH loses a SIGTERM that comes just before it waits
        process.communicate(timeout=10)


def reach(connect: Callable[[], socket.socket]) -> socket.socket:
    for _ in range(200):
        try:
            return connect()
        except OSError:
            threading.Event().wait(0.05)
    raise AssertionError("nobody listens")


def ask(connect: Callable[[], socket.socket], question: bytes = b"hello") -> bytes:
    with reach(connect) as sock:
        sock.settimeout(10)
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError:
        return False
    threading.Event().wait(0.02)
    return True


def to_port(port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=10)


def to_path(path: Path) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        return sock

    return connect


# ---------------------------------------------------------------- person → target


@pytest.mark.client("OpenSSH ssh", "forwards")
def test_a_local_forward_is_counted_and_in_the_log_before_it_opens(stage: Stage, upper: Upper) -> None:
    allow(stage, forwards=(f"127.0.0.1:{port_of(upper)}",))
    local = free_port()
    question = b"question " * 100_000
    with running(stage, "-L", f"{local}:localhost:{port_of(upper)}"):
        assert ask(to_port(local), question) == question.upper()
        stage.wait(lambda: stage.events_of("forward:closed"))
    [opened], [closed] = stage.events_of("forward:opened"), stage.events_of("forward:closed")
    assert opened["type"] == "direct-tcpip"
    assert opened["destination"] == f"localhost:{port_of(upper)}"
    assert str(opened["originator"]).startswith("127.0.0.1:")
    assert closed == {**opened, "octets_to_target": len(question), "octets_to_person": len(question)}
    kinds = [kind for kind, _ in stage.recordings[0].records]
    assert kinds == ["forward", "forward-end"]
    assert json.loads(stage.recordings[0].of("forward-end")[0]) == closed


def test_a_forward_waits_until_its_record_is_durable(stage: Stage, upper: Upper) -> None:
    stage.require = True
    allow(stage, forwards=("127.0.0.1:*",))
    assert stage.ssh("-W", f"127.0.0.1:{port_of(upper)}", "web-1.gw", input=b"abc").stdout == b"ABC"
    assert stage.recordings[0].waited == [0]


def test_without_the_log_no_forward_opens(stage: Stage, upper: Upper) -> None:
    allow(stage, forwards=("127.0.0.1:*",))
    stage.log_fails = True
    done = stage.ssh("-o", "LogLevel=INFO", "-W", f"127.0.0.1:{port_of(upper)}", "web-1.gw", input=b"abc")
    assert (done.returncode, b"The log does not answer" in done.stderr) == (255, True)
    assert upper.met == 0


@pytest.mark.client("OpenSSH ssh", "forwards")
def test_a_dynamic_forward_with_curl(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "page").write_text("a page behind the target")
    port, local = free_port(), free_port()
    allow(stage, forwards=(f"127.0.0.1:{port}",))
    web = subprocess.Popen(
        ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path / "www"), str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ask(to_port(port), b"GET / HTTP/1.0\r\n\r\n")
        with running(stage, "-D", str(local)):
            ask(to_port(local), b"")
            socks = ["curl", "-sS", "--max-time", "20", "--socks5-hostname", f"127.0.0.1:{local}"]
            got = subprocess.run([*socks, f"http://127.0.0.1:{port}/page"], capture_output=True, check=False)
            assert got.stdout == b"a page behind the target"
            no = subprocess.run([*socks, "http://169.254.169.254/latest/"], capture_output=True, check=False)
            assert no.returncode != 0
            stage.wait(lambda: stage.events_of("forward:refused"))
    finally:
        web.kill()
        web.wait(10)
    assert stage.events_of("forward:refused") == [{"what": "direct-tcpip 169.254.169.254:80", "untold": 0}]


def test_a_destination_that_is_not_listed_is_refused_with_a_sentence(stage: Stage, upper: Upper) -> None:
    allow(stage, forwards=("127.0.0.1:1",))
    done = stage.ssh("-o", "LogLevel=INFO", "-W", f"127.0.0.1:{port_of(upper)}", "web-1.gw")
    assert done.returncode == 255
    assert b"administratively prohibited" in done.stderr
    assert b"Level shell of web-1 does not allow a forward to 127.0.0.1" in done.stderr
    stage.wait(lambda: stage.events_of("forward:refused"))
    assert upper.met == 0


def test_a_refusal_is_in_the_log_also_when_the_person_leaves_while_they_are_told(
    stage: Stage, upper: Upper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_args: object) -> None:
        raise EOFError

    monkeypatch.setattr(OpeningTransport, "turn_down", gone)
    allow(stage, forwards=("127.0.0.1:1",))
    with running(stage, "-W", f"127.0.0.1:{port_of(upper)}"):
        stage.wait(lambda: stage.events_of("forward:refused"))
    stage.wait(lambda: stage.ended)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "::1", "0.0.0.0", "127.0.0.7"])
def test_a_forward_to_the_targets_own_sshd_is_no_way_around_the_recording(stage: Stage, host: str) -> None:
    allow(stage, forwards=("*:*", f"{host}:{stage.sshd.port}", f"[{host}]:{stage.sshd.port}"))
    destination = f"[{host}]:{stage.sshd.port}" if ":" in host else f"{host}:{stage.sshd.port}"
    done = stage.ssh("-o", "LogLevel=INFO", "-W", destination, "web-1.gw")
    assert (done.returncode, b"administratively prohibited" in done.stderr) == (255, True)
    assert not stage.events_of("forward:opened")


def test_what_the_target_cannot_reach_is_told_in_its_words(stage: Stage) -> None:
    allow(stage, forwards=("127.0.0.1:*",))
    done = stage.ssh("-o", "LogLevel=INFO", "-W", f"127.0.0.1:{free_port()}", "web-1.gw")
    assert (done.returncode, b"connect failed" in done.stderr) == (255, True)
    stage.wait(lambda: stage.events_of("forward:closed"))
    assert "error" in stage.events_of("forward:closed")[0]


def test_refusals_do_not_flood_the_log(stage: Stage) -> None:
    local = free_port()
    allow(stage, forwards=("127.0.0.1:1",))
    with running(stage, "-L", f"{local}:10.1.1.1:80"):
        for _ in range(20):
            ask(to_port(local), b"")
    stage.wait(lambda: stage.ended)
    assert 1 <= len(stage.events_of("forward:refused")) <= 5
    assert len(stage.recordings[0].of("refused")) == 20


@pytest.mark.client("OpenSSH ssh", "forwards")
def test_unix_sockets_both_ways(stage: Stage, tmp_path: Path) -> None:
    there, here, mine, back = (tmp_path / name for name in ("there", "here", "mine", "back"))
    allow(stage, forwards=(f"{tmp_path}/*",), remote_forwards=(f"{tmp_path}/back",))
    with unix_upper(there), unix_upper(mine), running(stage, "-L", f"{here}:{there}", "-R", f"{back}:{mine}"):
        assert ask(to_path(here)) == b"HELLO"
        assert ask(to_path(back)) == b"HELLO"
    stage.wait(lambda: stage.ended)
    kinds = {str(event["type"]) for event in stage.events_of("forward:closed")}
    assert kinds == {
        "direct-streamlocal@openssh.com", "streamlocal-forward@openssh.com", "forwarded-streamlocal@openssh.com",
    }  # fmt: skip


@pytest.mark.client("OpenSSH ssh", "forwards", "many")
def test_many_forwards_at_once(stage: Stage, upper: Upper) -> None:
    allow(stage, forwards=("127.0.0.1:*",))
    local = free_port()
    with running(stage, "-L", f"{local}:127.0.0.1:{port_of(upper)}"):
        ask(to_port(local))
        socks = [socket.create_connection(("127.0.0.1", local), timeout=10) for _ in range(40)]
        for number, sock in enumerate(socks):
            sock.sendall(b"n%d" % number)
        for number, sock in enumerate(socks):
            assert sock.recv(100) == b"N%d" % number
            sock.close()
        stage.wait(lambda: len(stage.events_of("forward:closed")) == 41)


def test_forwards_that_come_and_go_are_no_flood(stage: Stage, upper: Upper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_transport, "MOST_CONTROLS", 20.0)
    monkeypatch.setattr(ssh_transport, "CONTROLS_PER_SECOND", 0.0)
    allow(stage, forwards=(f"127.0.0.1:{port_of(upper)}",))
    local = free_port()
    with running(stage, "-L", f"{local}:localhost:{port_of(upper)}"):
        for _ in range(40):
            assert ask(to_port(local)) == b"HELLO"


def test_a_forward_that_nobody_reads_slows_whoever_sends_and_costs_no_memory(stage: Stage) -> None:
    sent: list[int] = []

    def pour(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, suppress(OSError):
            for _ in range(400):
                sock.sendall(bytes(1_000_000))
                sent.append(1)

    with socket.create_server(("127.0.0.1", 0)) as source:
        port, local = source.getsockname()[1], free_port()
        allow(stage, forwards=(f"127.0.0.1:{port}",))
        pouring = threading.Thread(target=pour, args=(source,))
        pouring.start()
        with running(stage, "-L", f"{local}:127.0.0.1:{port}"), reach(to_port(local)) as reader:
            assert reader.recv(1) == b"\0"
            before = _resident()
            _settle(lambda: len(sent))
            growth = _resident() - before
        pouring.join(10)
    assert len(sent) < 100
    assert growth < 60_000  # KiB; 400 MB were to be sent


def test_a_kill_cuts_forwards(stage: Stage, upper: Upper) -> None:
    allow(stage, forwards=("127.0.0.1:*",))
    local = free_port()
    with running(stage, "-L", f"{local}:127.0.0.1:{port_of(upper)}") as process:
        ask(to_port(local))
        with closing(socket.create_connection(("127.0.0.1", local), timeout=10)) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"X"
            stage.live["ses_0"].terminate(EndReason.GRANT_REVOKED, "")
            assert sock.recv(1) == b""
        assert process.wait(10) == 255
    stage.wait(lambda: stage.ended)
    assert len(stage.events_of("forward:closed")) == len(stage.events_of("forward:opened"))


def test_forwards_alone_open_a_session_at_once_and_a_no_is_told(stage: Stage) -> None:
    allow(stage, forwards=("127.0.0.1:1",))
    with running(stage, "-L", f"{free_port()}:127.0.0.1:1"):
        stage.wait(lambda: "ses_0" in stage.live)


# ---------------------------------------------------------------- target → person


@pytest.mark.client("OpenSSH ssh", "forwards")
def test_a_remote_forward(stage: Stage, upper: Upper) -> None:
    remote = free_port()
    allow(stage, remote_forwards=(f"localhost:{remote}",))
    with running(stage, "-R", f"{remote}:127.0.0.1:{port_of(upper)}"):
        assert ask(to_port(remote)) == b"HELLO"
    stage.wait(lambda: stage.ended)
    opened = stage.events_of("forward:opened")
    assert [event["type"] for event in opened] == ["tcpip-forward", "forwarded-tcpip"]
    closed = {event["type"]: event for event in stage.events_of("forward:closed")}
    assert closed["forwarded-tcpip"]["octets_to_person"] == 5
    assert closed["forwarded-tcpip"]["octets_to_target"] == 5
    assert str(closed["forwarded-tcpip"]["originator"])


def test_a_remote_forward_on_a_port_of_the_targets_choice(stage: Stage, upper: Upper) -> None:
    allow(stage, remote_forwards=("localhost:*",))
    with running(stage, "-o", "LogLevel=INFO", "-R", f"0:127.0.0.1:{port_of(upper)}") as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(rb"Allocated port (\d+)", said)
        assert found, said
        assert ask(to_port(int(found[1]))) == b"HELLO"


def test_a_remote_forward_that_is_not_listed_is_refused(stage: Stage, upper: Upper) -> None:
    allow(stage, remote_forwards=("localhost:1234",))
    done = stage.ssh(
        "-N", "-o", "ExitOnForwardFailure=yes", "-R", f"{free_port()}:127.0.0.1:{port_of(upper)}", "web-1.gw"
    )
    assert done.returncode == 255
    stage.wait(lambda: stage.events_of("forward:refused"))
    assert not stage.events_of("forward:opened")


def test_a_remote_forward_can_be_cancelled(stage: Stage, upper: Upper, tmp_path: Path) -> None:
    remote = free_port()
    allow(stage, remote_forwards=(f"localhost:{remote}",))
    forward = f"{remote}:127.0.0.1:{port_of(upper)}"
    with running(stage, "-M", "-S", str(tmp_path / "mux"), "-R", forward):
        assert ask(to_port(remote)) == b"HELLO"
        done = subprocess.run(
            stage.ssh_args("-S", str(tmp_path / "mux"), "-O", "cancel", "-R", forward, "web-1.gw"),
            timeout=20,
            check=False,
        )
        assert done.returncode == 0
        stage.wait(lambda: any(event["type"] == "tcpip-forward" for event in stage.events_of("forward:closed")))
        assert any(not is_open(remote) for _ in range(200))


@pytest.fixture
def agent(stage: Stage, tmp_path: Path) -> Iterator[dict[str, str]]:
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    env = {**os.environ, **dict(re.findall(r"(SSH_\w+)=([^;]+)", said))}
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "in-the-agent", "-f", str(tmp_path / "a")], check=True
    )
    subprocess.run(["ssh-add", "-q", str(tmp_path / "a")], env=env, check=True)
    config = stage.config("me", "ForwardAgent yes")
    config.write_text(config.read_text().replace("  IdentityAgent none\n", ""))
    yield env
    os.kill(int(env["SSH_AGENT_PID"]), signal.SIGTERM)


def test_the_agent_where_a_level_opens_it(stage: Stage, agent: dict[str, str]) -> None:
    allow(stage, agent_forwarding=True)
    done = stage.ssh("-A", "web-1.gw", "ssh-add -L", env=agent)
    assert b"in-the-agent" in done.stdout
    stage.wait(lambda: stage.ended)
    assert [event["type"] for event in stage.events_of("forward:closed")] == ["auth-agent@openssh.com"]
    assert [json.loads(r)["what"] for r in stage.recordings[0].of("opened")] == ["auth-agent-req@openssh.com"]


def test_a_certificate_in_an_agent_opens_the_door_whatever_else_is_in_it(stage: Stage, agent: dict[str, str]) -> None:
    subprocess.run(["ssh-add", "-q", str(stage.directory / "me")], env=agent, check=True)  # and its certificate
    config = stage.config("me")
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not re.search("Identit|CertificateFile", line)))
    assert stage.ssh("web-1.gw", "echo in", env=agent).stdout == b"in\n"


def test_the_agent_is_closed_by_default(stage: Stage, agent: dict[str, str]) -> None:
    done = stage.ssh("-A", "web-1.gw", "ssh-add -L; echo $SSH_AUTH_SOCK", env=agent)
    assert done.stdout == b"\n"
    stage.wait(lambda: stage.events_of("forward:refused"))


def test_x11_where_a_level_opens_it(tmp_path: Path, authorities: SshAuthorities) -> None:
    assert shutil.which("xauth"), "apt-get install xauth"
    with (
        Sshd(tmp_path / "sshd", authorities.target_ca_public, settings=("X11Forwarding yes",)) as own,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(tmp_path / "x"))
        listener.listen()
        display = socket.create_server(("127.0.0.1", 0))
        shown = Upper(display)
        stage = make_stage(tmp_path, own, authorities)
        door = stage.open_door()
        env = {
            **os.environ,
            "DISPLAY": f"127.0.0.1:{port_of(shown) - 6000}",
            "XAUTHORITY": str(tmp_path / "xauthority"),
        }
        script = (
            'python3 -c \'import os,socket; n=int(os.environ["DISPLAY"].split(":")[1].split(".")[0]); '
            's=socket.create_connection(("127.0.0.1",6000+n)); s.sendall(b"l\\0\\x0b\\0\\0\\0\\0\\0\\0\\0\\0\\0"); '
            "print(len(s.recv(9)))'"
        )
        closed = stage.ssh("-Y", "web-1.gw", "echo display=$DISPLAY", env=env)
        assert closed.stdout == b"display=\n"
        allow(stage, x11_forwarding=True)
        stage.ssh("-Y", "web-1.gw", script, env=env)
        door.close()
        display.close()
        kinds = [event["type"] for event in stage.events_of("forward:opened")]
        assert kinds == ["x11"]


# ---------------------------------------------------------------- commands, shells, environment, files


def test_a_level_without_a_shell(stage: Stage) -> None:
    allow(stage, shell=False, commands=("echo *", "id"))
    assert stage.ssh("web-1.gw", "echo allowed").stdout == b"allowed\n"
    for refused in (["web-1.gw"], ["web-1.gw", "sh"], ["web-1.gw", "echo a; id"], ["web-1.gw", "echo $(id)"]):
        done = stage.ssh(*refused, input=b"echo in\n")
        assert done.returncode == 254
        assert b"Level shell of web-1" in done.stderr + done.stdout
        assert b"uid=" not in done.stdout
    terminal = stage.ssh("-tt", "web-1.gw", "echo no terminal")
    assert (terminal.returncode, b"PTY allocation request failed" in terminal.stderr) == (255, True)
    assert {"what": "a terminal", "channel": 0} in [json.loads(each) for each in stage.recordings[-1].of("refused")]


def test_files_need_rules_where_commands_are_listed(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    sftp = ["sftp", "-q", "-F", str(tmp_path / "ssh_config.me"), f"web-1.gw:{tmp_path / 'f'}", str(tmp_path / "g")]
    allow(stage, commands=("id",))
    assert subprocess.run(sftp, capture_output=True, check=False, timeout=30).returncode != 0
    allow(stage, commands=("id",), files=(FileRule(True, "/**"),))
    assert subprocess.run(sftp, capture_output=True, check=False, timeout=30).returncode == 0


def test_a_forced_command_wins(stage: Stage) -> None:
    stage.level = replace(stage.level, force_command="echo forced", ssh=SshRules(shell=False))
    assert stage.ssh("web-1.gw").stdout == b"forced\n"
    assert stage.ssh("web-1.gw", "id").stdout == b"forced\n"


def test_the_environment_is_the_levels(stage: Stage) -> None:
    allow(stage, env=("*",))
    stage.config("me", "SetEnv APP_MODE=kept PATH=/evil LD_PRELOAD=/evil.so BASH_ENV=/evil")
    said = stage.ssh("web-1.gw", "env").stdout
    assert b"APP_MODE=kept" in said
    assert b"/evil" not in said
