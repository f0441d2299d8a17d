"""What somebody with a grant tries to get around its level or out of the recording."""

import json
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko
import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.target import FileRule, SshRules
from gateway.edges.proxy.ssh_fields import string, u32
from gateway.edges.proxy.ssh_forwards import MOST_LISTENERS
from gateway.edges.proxy.ssh_messages import RawMessage
from gateway.wire.sftp_packets import CLOSE, DATA, HANDLE, OPEN, READ, STATUS, SYMLINK
from tests.e2e.ssh_stage import Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.sshd import Sshd

pytestmark = pytest.mark.servers
CREATE = 8
OK = u32(0) + string(b"Success") + string(b"")
SECRET = b"what nobody may read\n"


def allow(stage: Stage, **rules: Any) -> None:
    stage.level = replace(stage.level, ssh=replace(SshRules(), **rules))


def facts(stage: Stage, kind: str) -> list[dict[str, Any]]:
    return [json.loads(r) for recording in stage.recordings for r in recording.of(kind)]


def connect(stage: Stage) -> paramiko.Transport:
    assert stage.door is not None
    key = paramiko.Ed25519Key.from_private_key_file(str(stage.directory / "me"))
    key.load_certificate(str(stage.directory / "me-cert.pub"))
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", stage.door.port), timeout=10))
    transport.start_client(timeout=10)
    transport.auth_publickey("web-1", key)
    return transport


@pytest.fixture
def client(stage: Stage) -> Iterator[paramiko.Transport]:
    transport = connect(stage)
    yield transport
    transport.close()
    transport.join(10)


class Sftp:
    """Packets as a test wants them, over any channel that speaks SFTP."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self.channel = channel
        channel.settimeout(10)
        channel.sendall(u32(5) + b"\x01" + u32(3))
        assert self.answer()[0] == 2

    def send(self, *packets: bytes) -> None:
        self.channel.sendall(b"".join(string(packet) for packet in packets))

    def answer(self) -> tuple[int, int, bytes]:
        """Type, request number, the rest."""
        (length,) = struct.unpack(">I", self._take(4))
        body = self._take(length)
        return body[0], int.from_bytes(body[1:5], "big"), body[5:]

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            piece = self.channel.recv(count - len(taken))
            assert piece, "the channel is over"
            taken += piece
        return taken


def opening(number: int, path: str | Path, flags: int = 1) -> bytes:
    return bytes((OPEN,)) + u32(number) + string(str(path).encode()) + u32(flags) + u32(0)


def reading(number: int, handle: bytes) -> bytes:
    return bytes((READ,)) + u32(number) + string(handle) + bytes(8) + u32(1000)


def handle_of(answer: tuple[int, int, bytes]) -> bytes:
    assert answer[0] == HANDLE, answer
    return answer[2][4:]


def subsystem(client: paramiko.Transport) -> Sftp:
    channel = client.open_session(timeout=10)
    channel.invoke_subsystem("sftp")
    return Sftp(channel)


# ---------------------------------------------------------------- names and handles


def test_dots_behind_a_symbolic_link_lead_nowhere(stage: Stage, client: paramiko.Transport, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "1" / "2").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(SECRET)
    allow(stage, files=(FileRule(True, f"{mine}/**"),))
    sftp = subsystem(client)
    sftp.send(bytes((SYMLINK,)) + u32(1) + string(str(mine).encode()) + string(f"{mine}/1/2/link".encode()))
    assert sftp.answer() == (STATUS, 1, OK)
    sftp.send(opening(2, f"{mine}/1/2/link/../secret"))  # mine/1/2/secret by its text, and secret in truth
    kind, _, why = sftp.answer()
    assert (kind, b"without '..'" in why) == (STATUS, True)
    [refused] = facts(stage, "file-refused")
    assert refused["path"] == f"{mine}/1/2/link/../secret"


@pytest.mark.parametrize("way", ["/proc/self/root{}", "/proc/thread-self/root{}", "{0.parent}/link/self/root{0}"])
def test_the_kernels_own_links_lead_nowhere(stage: Stage, client: paramiko.Transport, tmp_path: Path, way: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    allow(stage, files=(FileRule(False, str(secret)), FileRule(True, "/**")))
    sftp = subsystem(client)
    sftp.send(bytes((SYMLINK,)) + u32(1) + string(b"/proc") + string(f"{tmp_path}/link".encode()))
    sftp.answer()
    sftp.send(opening(2, way.format(secret)))
    assert sftp.answer()[0] == STATUS


def test_nothing_passes_once_a_transfer_is_not_followed_any_more(
    stage: Stage, client: paramiko.Transport, tmp_path: Path
) -> None:
    server, heard = tmp_path / "sftp-server", tmp_path / "heard"
    heard.touch()
    server.write_text(
        f"#!/bin/sh\nprintf '\\0\\0\\0\\5\\2\\0\\0\\0\\3'; head -c 9 >/dev/null; echo no sftp any more\ncat >>{heard}\n"
    )
    server.chmod(0o755)
    handlers = client._channel_handler_table  # type: ignore[attr-defined]
    client._channel_handler_table = {**handlers, 97: lambda _channel, _m: None}  # type: ignore[attr-defined]
    channel = client.open_session(timeout=10)
    channel.settimeout(10)
    channel.exec_command(str(server))
    channel.sendall(u32(5) + b"\x01" + u32(3))
    assert b"cannot follow" in channel.makefile_stderr().readline().encode()  # type: ignore[attr-defined]
    removal = string(bytes((13,)) + u32(1) + string(str(server).encode()))
    for _ in range(3):
        raw = RawMessage(b"\x5e" + u32(channel.remote_chanid) + string(removal))
        client._send_user_message(raw)  # type: ignore[attr-defined]
        other = client.open_session(timeout=10)  # by the time that this is answered, the one before has passed or not
        other.exec_command("true")
        assert other.recv_exit_status() == 0
    assert heard.read_bytes() == b""


def test_a_name_with_dots_is_recorded_as_it_came(stage: Stage, client: paramiko.Transport, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    sftp = subsystem(client)
    sftp.send(opening(1, f"{tmp_path}/nowhere/../secret"))
    sftp.answer()
    sftp.channel.close()
    stage.wait(lambda: facts(stage, "file"))
    assert [f["path"] for f in facts(stage, "file")] == [f"{tmp_path}/nowhere/../secret"]


@pytest.mark.parametrize("flags", [CREATE, CREATE | 2], ids=["create", "write"])
def test_a_handle_that_is_closed_reads_nothing_of_the_next_file(
    stage: Stage, client: paramiko.Transport, tmp_path: Path, flags: int
) -> None:
    (tmp_path / "free").write_bytes(b"free")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "secret").write_bytes(SECRET)
    allow(stage, files=(FileRule(True, f"{tmp_path}/free"), FileRule(True, f"{tmp_path}/in/*", "upload")))
    sftp = subsystem(client)
    sftp.send(opening(1, tmp_path / "free"))
    handle = handle_of(sftp.answer())
    # In one go: the server gives the number of the first file to the second.
    sftp.send(
        bytes((CLOSE,)) + u32(2) + string(handle), opening(3, tmp_path / "in" / "secret", flags), reading(4, handle)
    )
    answers = {number: (kind, rest) for kind, number, rest in (sftp.answer() for _ in range(3))}
    assert answers[2] == (STATUS, OK)
    assert answers[3][0] == (STATUS if flags == CREATE else HANDLE)  # a file made without WRITE is open for reading
    assert answers[4][0] == STATUS
    assert b"Nothing is open" in answers[4][1]


def test_a_file_that_was_being_closed_is_recorded(stage: Stage, client: paramiko.Transport, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(SECRET)
    sftp = subsystem(client)
    sftp.send(opening(1, tmp_path / "file"))
    handle = handle_of(sftp.answer())
    sftp.send(reading(2, handle))
    assert sftp.answer()[0] == DATA
    sftp.send(bytes((CLOSE,)) + u32(3) + string(handle))
    client.close()  # before or after the answer
    stage.wait(lambda: stage.ended)
    assert [(f["path"], f["bytes"]) for f in facts(stage, "file")] == [(f"{tmp_path}/file", len(SECRET))]


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("kind", ["shell", "exec", "subsystem"])
def test_a_forced_sftp_server_is_held_to_the_rules(
    stage: Stage, client: paramiko.Transport, tmp_path: Path, kind: str
) -> None:
    server = next(p for p in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if Path(p).exists())
    (tmp_path / "secret").write_bytes(SECRET)
    allow(stage, shell=False, files=(FileRule(True, f"{tmp_path}/in/**"),))
    stage.level = replace(stage.level, force_command=server)
    channel = client.open_session(timeout=10)
    {
        "shell": channel.invoke_shell,
        "exec": lambda: channel.exec_command("anything"),
        "subsystem": lambda: channel.invoke_subsystem("sftp"),
    }[kind]()
    sftp = Sftp(channel)
    sftp.send(opening(1, tmp_path / "secret"))
    assert sftp.answer()[0] == STATUS
    [refused] = facts(stage, "file-refused")
    assert refused["path"] == f"{tmp_path}/secret"
    [began] = facts(stage, "channel")
    assert (began["type"], began["runs"]) == (kind, server)


def test_a_forced_command_is_recorded_however_it_was_asked_for(stage: Stage, client: paramiko.Transport) -> None:
    stage.level = replace(stage.level, force_command="cat")
    channel = client.open_session(timeout=10)
    channel.exec_command("scp -t /x")
    channel.sendall(b"C0644 1 x\nwhat was typed\n")
    assert channel.recv(100)
    stage.wait(lambda: stage.opened)
    assert b"what was typed" in b"".join(stage.recordings[0].of("in"))


@pytest.mark.parametrize(
    "command",
    [
        "scp -4f {}", "scp -{{f,q}} {}", "scp -ft {}", "scp -qf -P t {}", "scp -Ft -qf {}", "scp {{-i,}} -f -t {}",
        "scp -v -f {{{},x}}", "scp {} /dev/stdout", "rsync --{{server,sender}} . {}", "rsync {} /tmp/x",
    ],
)  # fmt: skip
def test_a_listed_program_for_files_is_no_way_around_the_rules(stage: Stage, tmp_path: Path, command: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    allow(stage, shell=False, commands=("scp *", "rsync *"), files=(FileRule(True, "/tmp/no/**"),))
    done = stage.ssh("web-1.gw", command.format(tmp_path / "secret"), input=b"\0\0\0\0", timeout=20)
    assert (done.returncode, done.stdout) == (254, b"")
    assert b"has rules about files" in done.stderr
    assert not facts(stage, "channel")


def test_a_listed_program_for_one_direction_moves_nothing_the_other_way(stage: Stage, tmp_path: Path) -> None:
    allow(stage, shell=False, commands=("scp *",), files=(FileRule(True, "/**", "download"),))
    for command in (f"scp -if -4t {tmp_path}/new", f"scp {{-i,}} -f -t {tmp_path}/new"):
        done = stage.ssh("web-1.gw", command, input=b"C0644 2 x\nab\0", timeout=20)
        assert done.returncode == 254
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- what is not in the recording


@pytest.mark.parametrize(
    "command",
    [
        "rsync --server </dev/null >/dev/null 2>&1; bash -s 1>&2",
        "rsync() {{ bash -s 1>&2; }}\nrsync --server",
        "{}/rsync --server",
        "scp -f /nowhere; bash -s 1>&2",
        "scp -t /nowhere/; bash -s 1>&2",
        "scp -f `bash -s 1>&2`",
        "{}/scp -f x",
        "{}/scp -t x",
    ],
)
def test_nothing_is_typed_unseen_behind_a_transfer(stage: Stage, tmp_path: Path, command: str) -> None:
    for name in ("scp", "rsync"):
        (tmp_path / name).write_text("#!/bin/sh\nprintf '\\0'\nbash -s 1>&2\n")
        (tmp_path / name).chmod(0o755)
    stage.ssh("web-1.gw", command.format(tmp_path), input=b"\1;echo unse''en\n\1;exit\n", timeout=20)
    stage.wait(lambda: stage.ended)
    typed = b"".join(stage.recordings[0].of("in") + stage.recordings[0].of("file"))
    assert b"echo unse''en" in typed


def test_variables_are_recorded(stage: Stage) -> None:
    stage.ssh("-o", "SetEnv=LC_X='echo unseen'", "web-1.gw", 'eval "$LC_X" >/dev/null')
    assert facts(stage, "env") == [{"channel": 0, "name": "LC_X", "value": "echo unseen"}]


@pytest.mark.parametrize("term", ["x" * 101, "x y", "x\ny", "\xfc"])
def test_a_terminals_name_is_recorded_or_refused(stage: Stage, client: paramiko.Transport, term: str) -> None:
    channel = client.open_session(timeout=10)
    with pytest.raises(paramiko.SSHException):
        channel.get_pty(term)
    assert facts(stage, "refused")
    other = client.open_session(timeout=10)
    other.get_pty("$(x;y)" + "x" * 94)
    other.exec_command("echo $TERM")
    assert other.recv(1000) == b"$(x;y)" + b"x" * 94 + b"\r\n"
    assert [f["term"] for f in facts(stage, "channel")] == ["$(x;y)" + "x" * 94]


# ---------------------------------------------------------------- forwards


@contextmanager
def met() -> Iterator[tuple[int, queue.Queue[bytes]]]:
    """A port, and what is sent to it."""
    heard: queue.Queue[bytes] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with listener.accept()[0] as sock:
                        heard.put(b"met")
                        while data := sock.recv(1000):
                            heard.put(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1]), heard
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_while_a_session_is_locked_no_forward_begins(stage: Stage, client: paramiko.Transport) -> None:
    with met() as (port, heard):
        allow(stage, forwards=(f"127.0.0.1:{port}",), remote_forwards=("127.0.0.1:*",))
        client.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 1), timeout=10).close()
        assert heard.get(timeout=10) == b"met"
        stage.live["ses_0"].lock(locked=True)
        with pytest.raises(paramiko.SSHException):
            client.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 1), timeout=2)
        client.send_ignore(1)
        asked = threading.Thread(target=lambda: client.request_port_forward("127.0.0.1", 0), daemon=True)
        asked.start()
        asked.join(1)
        assert asked.is_alive()
        assert heard.empty()
        assert [e["type"] for e in stage.events_of("forward:opened")] == ["direct-tcpip"]
        stage.live["ses_0"].lock(locked=False)
        assert heard.get(timeout=10) == b"met"
        asked.join(10)
        assert not asked.is_alive()


def test_what_waits_for_an_unlock_is_not_sent_by_closing_the_channel(stage: Stage, client: paramiko.Transport) -> None:
    with met() as (port, heard):
        allow(stage, forwards=(f"127.0.0.1:{port}",))
        channel = client.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 1), timeout=10)
        channel.sendall(b"before")
        assert [heard.get(timeout=10) for _ in range(2)] == [b"met", b"before"]
        stage.live["ses_0"].lock(locked=True)
        channel.sendall(b"after")
        channel.close()
        stage.wait(lambda: stage.events_of("forward:closed"))
        assert heard.empty()
        assert stage.events_of("forward:closed")[0]["octets_to_target"] == len(b"before")


def test_requests_to_listen_are_bounded(stage: Stage, client: paramiko.Transport) -> None:
    allow(stage, remote_forwards=("127.0.0.1:*",))
    client.open_session(timeout=10).exec_command("cat")
    stage.wait(lambda: stage.live)
    stage.live["ses_0"].lock(locked=True)  # so that none of them is answered
    for _ in range(200):
        with suppress(OSError, EOFError, paramiko.SSHException):
            client.global_request("tcpip-forward", ("127.0.0.1", 0), wait=False)
    client.join(10)
    assert not client.is_alive()
    stage.wait(lambda: stage.ended)


def test_listeners_are_counted_by_address_and_all_of_them_closed(tmp_path: Path, authorities: SshAuthorities) -> None:
    settings = ("GatewayPorts clientspecified",)
    with Sshd(tmp_path / "sshd", authorities.target_ca_public, settings=settings) as own:
        stage = make_stage(tmp_path, own, authorities)
        door = stage.open_door()
        allow(stage, remote_forwards=("127.*:*",))
        client = connect(stage)
        port = client.request_port_forward("127.0.0.1", 0)
        for number in range(2, MOST_LISTENERS + 1):
            client.request_port_forward(f"127.0.0.{number}", port)
        for address in ("127.0.0.1", "127.0.0.99"):  # one that is open already, one too many
            with pytest.raises(paramiko.SSHException):
                client.request_port_forward(address, port)
        client.close()
        stage.wait(lambda: stage.ended)
        opened, closed = stage.events_of("forward:opened"), stage.events_of("forward:closed")
        assert len(opened) == MOST_LISTENERS
        assert {e["forward"] for e in opened} == {e["forward"] for e in closed}
        client.join(10)
        door.close()


def test_what_a_client_sends_by_itself_keeps_no_session_open(stage: Stage, client: paramiko.Transport) -> None:
    channel = client.open_session(timeout=10)
    channel.get_pty()
    channel.exec_command("cat")
    stage.wait(lambda: stage.live)
    channel.sendall(b"x")
    assert channel.recv(1) == b"x"
    assert stage.door is not None
    [connection] = stage.door._connections()
    seen = connection.attendance._seen
    client.global_request("keepalive@openssh.com", wait=True)
    for name in (b"keepalive@openssh.com", b"window-change", b"keepalive@openssh.com"):
        request = b"\x62" + u32(channel.remote_chanid) + string(name) + b"\0" + u32(80) * 4
        client._send_user_message(RawMessage(request))  # type: ignore[attr-defined]
    channel.resize_pty(90, 30)  # answered in turn, so that what went before has passed
    for _ in range(200):
        if len(stage.recordings[0].of("resize")) == 2:
            break
        threading.Event().wait(0.05)
    assert connection.attendance._seen == seen
    assert not facts(stage, "refused")
    channel.sendall(b"y")
    assert channel.recv(1) == b"y"
    assert connection.attendance._seen > seen


@pytest.mark.parametrize("wants_reply", [b"\0", b"\1"])
def test_where_the_target_gives_no_terminal_nothing_is_typed_unseen(
    tmp_path: Path, authorities: SshAuthorities, wants_reply: bytes
) -> None:
    with Sshd(tmp_path / "sshd", authorities.target_ca_public, settings=("PermitTTY no",)) as own:
        stage = make_stage(tmp_path, own, authorities)
        door = stage.open_door()
        client = connect(stage)
        handlers = client._channel_handler_table  # type: ignore[attr-defined]
        client._channel_handler_table = {**handlers, 100: lambda _channel, _m: None}  # type: ignore[attr-defined]
        channel = client.open_session(timeout=10)
        to = u32(channel.remote_chanid)
        terminal = string(b"vt100") + u32(80) + u32(24) + u32(0) * 2 + string(b"\0")
        for message in (  # in one go: nobody waits for an answer
            b"\x62" + to + string(b"pty-req") + wants_reply + terminal,
            b"\x62" + to + string(b"exec") + b"\0" + string(b"sh -s"),
            b"\x5e" + to + string(b"echo unse''en\nexit\n"),
        ):
            client._send_user_message(RawMessage(message))  # type: ignore[attr-defined]
        assert channel.recv(100) == b"unseen\n"
        client.close()
        stage.wait(lambda: stage.ended)
        assert b"echo unse''en" in b"".join(stage.recordings[0].of("in"))
        assert not stage.recordings[0].of("typed")
        client.join(10)
        door.close()
