"""Clients as people have them, at the real door. What ran here is the table in docs/ssh.md."""

import hashlib
import io
import json
import os
import pty
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from gateway.core.session import EndReason
from gateway.core.target import SshRules
from gateway.edges.proxy import ssh_goodbye
from tests.e2e.ssh_clients import dropbear, git_over_ssh, need, putty, run, ticket_for
from tests.e2e.ssh_stage import ONCALL, Stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.e2e.test_ssh_door import Terminal

pytestmark = pytest.mark.servers
BLOB = os.urandom(3 << 20)


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(BLOB)
    return path


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Where nothing tells us."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "this never came about"
        time.sleep(0.01)


def is_blob(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(BLOB).digest()


# ---------------------------------------------------------------- OpenSSH (see test_ssh_door for the rest)


@pytest.mark.client("git", "command", "files", "certificate")
def test_git_clones_and_pushes(stage: Stage, tmp_path: Path) -> None:
    need("git")
    bare, mine = tmp_path / "origin.git", tmp_path / "mine"
    environment = git_over_ssh(stage)

    def git(*args: str, at: Path = tmp_path) -> str:
        done = subprocess.run(["git", *args], cwd=at, env=environment, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git("clone", "--quiet", f"ssh://web-1.gw{bare}", str(mine))
    (mine / "blob").write_bytes(BLOB)
    git("add", "blob", at=mine)
    git("commit", "--quiet", "-m", "a large one", at=mine)
    git("push", "--quiet", "origin", "HEAD:main", at=mine)
    git("fetch", "--quiet", at=mine)
    assert git("rev-parse", "main", at=bare) == git("rev-parse", "HEAD", at=mine)
    commands = [json.loads(record)["command"] for recording in stage.recordings for record in recording.of("channel")]
    assert [command.split(" ")[0] for command in commands] == ["git-upload-pack", "git-receive-pack", "git-upload-pack"]


@pytest.mark.client("OpenSSH ssh with ControlMaster", "many")
def test_ten_channels_at_once_on_one_connection(stage: Stage, tmp_path: Path) -> None:
    stage.config("me", f"ControlPath {tmp_path / 'control'}")
    master = subprocess.Popen(stage.ssh_args("-M", "-N", "web-1.gw"))
    try:
        until((tmp_path / "control").exists)
        share = stage.ssh_args("-o", "ControlMaster=no", "web-1.gw", "head -c 1 >/dev/null; cat; exit 4")
        pipe = subprocess.PIPE
        running = [subprocess.Popen(share, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(10)]
        until(lambda: stage.recordings and len(stage.recordings[0].of("channel")) == 10)  # and none has ended
        for number, each in enumerate(running):
            out, _ = each.communicate(b"." + bytes([number]) * 100_000, timeout=60)
            assert (each.returncode, out) == (4, bytes([number]) * 100_000)
        assert len(stage.opened) == 1
    finally:
        master.kill()  # SIGTERM between two polls is not noticed by a master that has nothing to do
        master.wait(10)


@pytest.mark.client("VS Code Remote's pattern (OpenSSH ssh)", "command", "many", "forwards", "certificate")
def test_a_remote_editors_pattern_a_long_command_and_many_forwards(stage: Stage, tmp_path: Path) -> None:
    """VS Code Remote: a server is started by an exec that stays, and reached through -D and many -L channels."""
    with echo_server() as port:
        stage.level = replace(stage.level, ssh=SshRules(forwards=(f"127.0.0.1:{port}",)))
        socks, local = free_port(), free_port()
        stage.config("me", f"ControlPath {tmp_path / 'control'}")
        script = "echo listening; while read line; do echo got $line; done"
        forwards = ["-D", f"127.0.0.1:{socks}", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}"]
        args = stage.ssh_args("-M", "-T", *forwards, "web-1.gw", script)
        with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdin is not None
            assert server.stdout.readline() == b"listening\n"
            try:
                with_all = [through_socks(socks, port) if n % 2 else connect(local) for n in range(40)]
                for number, each in enumerate(with_all):
                    each.sendall(b"%d" % number * 1000)
                for number, each in enumerate(with_all):
                    wanted = b"%d" % number * 1000
                    assert receive(each, len(wanted)) == wanted
                    each.close()
                server.stdin.write(b"still\n")
                server.stdin.flush()
                assert server.stdout.readline() == b"got still\n"
                assert stage.ssh("-o", "ControlMaster=no", "web-1.gw", "echo", "more").stdout == b"more\n"
            finally:
                server.stdin.close()
                assert server.wait(20) == 0
    stage.wait(lambda: stage.ended)
    opened, closed = stage.events_of("forward:opened"), stage.events_of("forward:closed")
    assert (len(opened), len(closed)) == (40, 40)
    assert sum(int(str(forward["octets_to_target"])) for forward in closed) == sum(
        len(b"%d" % n) * 1000 for n in range(40)
    )


# ---------------------------------------------------------------- PuTTY


@pytest.mark.parametrize("certificate", [False, True], ids=["ticket", "certificate"])
@pytest.mark.client("PuTTY plink", "command", "certificate", "ticket")
def test_plink_runs_a_command(stage: Stage, certificate: bool) -> None:
    need("plink", "puttygen")
    who = "web-1" if certificate else "oncall%web-1"
    command = putty(stage, "plink", "-l", who, "127.0.0.1", "cat; echo err >&2; exit 7", certificate=certificate)
    done = run(command, stage, input=BLOB)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (7, b"err")  # what comes before is plink's own
    assert done.stdout == BLOB
    stage.wait(lambda: stage.ended)
    assert stage.opened[0].session.holder == ONCALL.id


@pytest.mark.client("PuTTY plink", "terminal")
def test_plink_with_a_terminal(stage: Stage) -> None:
    need("plink")
    done = run(putty(stage, "plink", "-t", "-l", "oncall%web-1", "127.0.0.1", "tty; stty size"), stage)
    assert done.returncode == 0
    assert b"/dev/pts/" in done.stdout
    assert stage.recordings[0].of("out")


@pytest.mark.parametrize("certificate", [False, True], ids=["ticket", "certificate"])
@pytest.mark.client("PuTTY psftp", "files", "certificate", "ticket")
def test_psftp_moves_files(stage: Stage, blob: Path, tmp_path: Path, certificate: bool) -> None:
    need("psftp", "puttygen")
    script = tmp_path / "batch"
    script.write_text(f"put {blob} {tmp_path}/there\nget {tmp_path}/there {tmp_path}/back\nrm {tmp_path}/there\n")
    who = "web-1" if certificate else "oncall%web-1"
    command = putty(stage, "psftp", "-b", str(script), "-l", who, "127.0.0.1", certificate=certificate)
    done = run(command, stage)
    assert done.returncode == 0, done.stderr
    assert is_blob(tmp_path / "back")
    assert not (tmp_path / "there").exists()


def test_plink_with_a_wrong_ticket_stays_outside(stage: Stage) -> None:
    need("plink")
    command = putty(stage, "plink", "-l", "oncall%web-1", "127.0.0.1", "true")
    stage.tickets.clear()
    done = run(command, stage)
    assert done.returncode == 1
    assert b"not accepted" in done.stderr
    assert stage.opened == []


# ---------------------------------------------------------------- dropbear


@pytest.mark.client("dropbear dbclient", "command", "ticket")
def test_dbclient_runs_commands_and_carries_octets_both_ways(stage: Stage) -> None:
    """Debian's build has neither AES-GCM nor encrypt-then-MAC: the door speaks chacha20-poly1305 to it."""
    need("dbclient")
    done = run(dropbear(stage, "echo out; echo err >&2; exit 7"), stage)
    assert (done.returncode, done.stdout) == (7, b"out\n"), done.stderr
    assert b"err" in done.stderr
    octets = os.urandom(3_000_000)
    assert run(dropbear(stage, "cat"), stage, input=octets).stdout == octets


# ---------------------------------------------------------------- paramiko


@contextmanager
def by_paramiko(stage: Stage, *, ticket: bool) -> Iterator[paramiko.SSHClient]:
    assert stage.door is not None
    client = paramiko.SSHClient()
    kind, text = stage.authorities.host_key_public.split()[:2]
    known = paramiko.hostkeys.HostKeyEntry.from_line(f"x {kind} {text}")
    assert known is not None
    assert known.key is not None
    client.get_host_keys().add(f"[127.0.0.1]:{stage.door.port}", kind, known.key)
    own = {"password": ticket_for(stage)} if ticket else {"key_filename": str(stage.directory / "me")}
    client.connect(
        "127.0.0.1", stage.door.port, "oncall%web-1" if ticket else "web-1",
        look_for_keys=False, allow_agent=False, timeout=20, **own,
    )  # fmt: skip
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("ticket", [False, True], ids=["certificate", "ticket"])
@pytest.mark.client("paramiko", "command", "files", "certificate", "ticket")
def test_paramiko_runs_a_command_and_moves_files(stage: Stage, tmp_path: Path, ticket: bool) -> None:
    with by_paramiko(stage, ticket=ticket) as client:
        _, out, err = client.exec_command("echo out; echo err >&2; exit 5")
        assert (out.read(), err.read(), out.channel.recv_exit_status()) == (b"out\n", b"err\n", 5)
        with client.open_sftp() as sftp:
            sftp.putfo(io.BytesIO(BLOB), str(tmp_path / "there"))
            sftp.get(str(tmp_path / "there"), str(tmp_path / "back"))
        assert is_blob(tmp_path / "back")
    stage.wait(lambda: stage.ended)
    assert [(reason, detail) for _, reason, detail in stage.ended] == [(EndReason.CLIENT_CLOSED, "")]


# ---------------------------------------------------------------- what is done to a running one


def test_a_lock_drops_what_is_typed_and_the_output_goes_on(stage: Stage, tmp_path: Path) -> None:
    terminal = Terminal(stage, "(while sleep 0.1; do echo tick; done) & cat >" + str(tmp_path / "typed"))
    terminal.expect("tick")
    live = stage.live["ses_0"]
    terminal.type("before\n")
    terminal.expect("before")
    live.lock(locked=True)
    live.warn("gateway: lead has locked this session.")
    terminal.expect("lead has locked this session")
    terminal.type("lost\n")
    until(lambda: any(b"while locked" in record for record in stage.recordings[0].of("refused")))
    terminal.expect("tick")
    live.lock(locked=False)
    terminal.type("after\n\x04")
    terminal.expect("after")
    terminal.type("\x04")
    terminal.close()
    assert (tmp_path / "typed").read_text() == "before\nafter\n"


def test_a_lock_holds_a_transfer_and_leaves_it_whole(stage: Stage) -> None:
    args = stage.ssh_args("web-1.gw", "echo begun; cat")
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as transfer:
        assert transfer.stdout is not None
        assert transfer.stdout.readline() == b"begun\n"
        stage.live["ses_0"].lock(locked=True)
        released = threading.Timer(0.5, lambda: stage.live["ses_0"].lock(locked=False))
        released.start()
        out, _ = transfer.communicate(BLOB, timeout=60)
        released.join()
    assert out == BLOB


def test_nothing_new_starts_while_locked_and_who_leaves_runs_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.config("me", f"ControlPath {tmp_path / 'control'}")
    with subprocess.Popen(stage.ssh_args("-M", "web-1.gw", "echo begun; sh"), stdin=-1, stdout=-1) as master:
        assert master.stdout is not None
        assert master.stdin is not None
        assert master.stdout.readline() == b"begun\n"
        stage.live["ses_0"].lock(locked=True)
        master.stdin.write(f"touch {tmp_path / 'held'}\n".encode())
        master.stdin.flush()
        second = stage.ssh_args("-o", "ControlMaster=no", "web-1.gw", f"touch {tmp_path / 'new'}")
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(second, timeout=1.5, check=False, stdin=subprocess.DEVNULL)
        master.kill()
    stage.wait(lambda: stage.ended)
    assert not (tmp_path / "held").exists()
    assert not (tmp_path / "new").exists()


def test_idleness_counts_from_the_last_key_at_a_terminal_and_the_last_octet_elsewhere(stage: Stage) -> None:
    terminal = Terminal(stage, "while sleep 0.1; do echo tick; done")
    for _ in range(10):
        terminal.expect("tick")
    idle = stage.live["ses_0"].idle_for()
    assert idle.total_seconds() > 0.5
    terminal.type("x")
    until(lambda: stage.live["ses_0"].idle_for() < idle)
    terminal.type("\x03")
    terminal.close()
    with subprocess.Popen(stage.ssh_args("web-1.gw", "while sleep 0.05; do echo tick; done"), stdout=-1) as download:
        assert download.stdout is not None
        lines = [download.stdout.readline() for _ in range(30)]
        assert lines[-1] == b"tick\n"
        assert stage.live["ses_1"].idle_for().total_seconds() < 1
        download.kill()


CAUSED = [r for r in EndReason if r not in (EndReason.CLIENT_CLOSED, EndReason.INTERRUPTED)]


@pytest.fixture
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients get their time however slow this machine is at the moment."""
    monkeypatch.setattr(ssh_goodbye, "PAUSE", 2.0)
    monkeypatch.setattr(ssh_goodbye, "LAST_WORDS_TIME", 4.0)


@pytest.mark.parametrize("reason", CAUSED)
@pytest.mark.usefixtures("busy_machine")
def test_every_end_is_told_on_the_terminal_and_to_a_script(stage: Stage, reason: EndReason) -> None:
    terminal = Terminal(stage)
    stage.wait(lambda: stage.live)
    with subprocess.Popen(stage.ssh_args("web-1.gw", "echo begun; cat"), stdin=-1, stdout=-1, stderr=-1) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == b"begun\n"
        stage.wait(lambda: len(stage.live) == 2)
        for live in list(stage.live.values()):
            live.terminate(reason, "by lead")
            live.terminate(EndReason.KILLED, "the first reason stands")
        assert script.wait(20) == 254  # its input stays open meanwhile: at the end of that, `cat` would end well
        assert script.stderr is not None
        err = script.stderr.read()
    assert reason.sentence("by lead").encode() in err
    terminal.expect(reason.sentence("by lead").replace("(", r"\(").replace(")", r"\)"))
    terminal.close()
    stage.wait(lambda: len(stage.ended) == 2)
    assert {(why, detail) for _, why, detail in stage.ended} == {(reason, "by lead")}


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.usefixtures("busy_machine")
def test_an_end_is_told_also_where_ssh_itself_says_nothing(stage: Stage, tmp_path: Path, is_shared: bool) -> None:
    """With -q, and behind a connection of another process (ControlPersist): only what the channel says is seen."""
    quiet = ("ControlMaster auto", f"ControlPath {tmp_path / 'mux'}", "ControlPersist 60") if is_shared else ()
    stage.config("me", "LogLevel QUIET", *quiet)
    if is_shared:
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # which the other one keeps open
        assert stage.ssh("web-1.gw", "true", **silent).returncode == 0
    terminal = Terminal(stage, "echo rea''dy; sleep 300")
    terminal.expect("ready")
    stage.live["ses_0"].terminate(EndReason.GRANT_REVOKED, "")
    terminal.expect(EndReason.GRANT_REVOKED.sentence(""))
    assert terminal.close() == 254
    stage.wait(lambda: stage.ended)  # the other one is told in its turn


# ---------------------------------------------------------------- sockets


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while octets := self.request.recv(65536):
            self.request.sendall(octets)


@contextmanager
def echo_server() -> Iterator[int]:
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def through_socks(proxy: int, port: int) -> socket.socket:
    """RFC 1928 without authentication."""
    found = connect(proxy)
    found.sendall(b"\x05\x01\x00")
    assert receive(found, 2) == b"\x05\x00"
    found.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big"))
    assert receive(found, 10)[:2] == b"\x05\x00"
    return found


def receive(sock: socket.socket, octets: int) -> bytes:
    found = b""
    while len(found) < octets:
        more = sock.recv(octets - len(found))
        assert more, "it ended early"
        found += more
    return found


# ---------------------------------------------------------------- what other clients can do besides


@pytest.mark.client("dropbear dbclient", "terminal")
def test_dbclient_with_a_terminal(stage: Stage) -> None:
    need("dbclient")
    dbclient, *args = dropbear(stage, "tty; stty size")
    person, own = pty.openpty()
    done = run([dbclient, "-t", *args], stage, stdin=own)
    os.close(own)
    os.close(person)
    assert done.returncode == 0, done.stderr
    assert b"/dev/pts/" in done.stdout


@pytest.mark.client("dropbear dbclient", "forwards")
def test_dbclient_forwards_standard_input_and_output(stage: Stage) -> None:
    """`-B` is dropbear's `-W`: a direct-tcpip channel."""
    need("dbclient")
    with echo_server() as port:
        stage.level = replace(stage.level, ssh=SshRules(forwards=(f"127.0.0.1:{port}",)))
        dbclient, *args = dropbear(stage)
        with subprocess.Popen(
            [dbclient, "-B", f"127.0.0.1:{port}", *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(stage.directory), "DROPBEAR_PASSWORD": ticket_for(stage)},
        ) as client:  # fmt: skip
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"through\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"through\n"
            client.kill()
    stage.wait(lambda: stage.events_of("forward:closed"))


@pytest.mark.client("PuTTY plink", "forwards")
def test_plink_forwards_a_port(stage: Stage) -> None:
    need("plink")
    with echo_server() as port:
        stage.level = replace(stage.level, ssh=SshRules(forwards=(f"127.0.0.1:{port}",)))
        command = putty(stage, "plink", "-l", "oncall%web-1", "-nc", f"127.0.0.1:{port}", "127.0.0.1")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(stage.directory)},
        ) as client:  # fmt: skip
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"through\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"through\n"
            client.kill()
    stage.wait(lambda: stage.events_of("forward:closed"))


@pytest.mark.client("paramiko", "terminal", "many", "forwards")
def test_paramiko_has_terminals_many_channels_and_forwards(stage: Stage) -> None:
    with echo_server() as port, by_paramiko(stage, ticket=False) as client:
        stage.level = replace(stage.level, ssh=SshRules(forwards=(f"127.0.0.1:{port}",)))
        transport = client.get_transport()
        assert transport is not None
        shells = [client.invoke_shell(width=101, height=42) for _ in range(10)]
        for number, shell in enumerate(shells):
            shell.settimeout(20)
            shell.sendall(f"stty size; echo n''r {number}\n".encode())
            seen = b""
            while b"42 101" not in seen or b"nr %d" % number not in seen:
                seen += shell.recv(1000)
        forward = transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 1), timeout=20)
        forward.sendall(b"through")
        assert forward.recv(7) == b"through"
    assert len(stage.opened) == 1
