import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from blake3 import blake3

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.errors import Refusal
from gateway.core.session import EndReason
from gateway.edges.proxy import ssh_keys
from tests.e2e.ssh_stage import ONCALL, Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.sshd import Sshd

pytestmark = pytest.mark.servers
BLOB = os.urandom(1 << 20) * 50


class Terminal:
    """A person at an OpenSSH client with a pseudo-terminal."""

    def __init__(self, stage: Stage, *command: str) -> None:
        self.master, slave = pty.openpty()
        self.said = b""
        args = stage.ssh_args("-tt", "web-1.gw", *command)
        self.process = subprocess.Popen(args, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str, seconds: float = 15.0) -> re.Match[bytes]:
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern.encode(), self.said)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"never saw {pattern!r} in {self.said!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    more = os.read(self.master, 65536)
                except OSError:
                    more = b""
                assert more, f"the client ended without {pattern!r}: {self.said!r}"
                self.said += more
        self.said = self.said[found.end() :]
        return found

    def close(self) -> int:
        code = self.process.wait(15)
        os.close(self.master)
        return code


# ---------------------------------------------------------------- relaying


@pytest.mark.client("OpenSSH ssh", "command", "certificate")
def test_exec_keeps_streams_apart_and_the_exit_status(stage: Stage) -> None:
    done = stage.ssh("web-1.gw", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    stage.wait(lambda: stage.ended)
    assert stage.ended == [("ses_0", EndReason.CLIENT_CLOSED, "")]
    assert stage.asked == [(ONCALL.id, "web-1", "")]


def test_the_level_is_in_the_user_name(stage: Stage) -> None:
    assert stage.ssh("-l", "root%web-1", "web-1.gw", "true").returncode == 0
    assert stage.asked == [(ONCALL.id, "web-1", "root")]


@pytest.mark.client("OpenSSH ssh", "command")
def test_a_command_that_dies_by_a_signal_says_so(stage: Stage) -> None:
    done = stage.ssh("web-1.gw", "kill -TERM $$")
    assert done.returncode == 255  # OpenSSH's answer to exit-signal
    assert [json.loads(r) for r in stage.recordings[0].of("exit")] == [{"channel": 0, "signal": "TERM"}]


@pytest.mark.client("OpenSSH ssh", "command")
def test_binary_is_carried_unchanged_both_ways(stage: Stage) -> None:
    done = stage.ssh("web-1.gw", "cat", input=BLOB)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(BLOB).digest()
    streams = [json.loads(r) for r in stage.recordings[0].of("stream")]
    for stream in streams:
        assert stream["octets"] == len(BLOB)
        assert stream["kept"] == 1 << 20
        assert stream["blake3"] == blake3(BLOB).hexdigest()
    kept = b"".join(piece[4:] for piece in stage.recordings[0].of("out"))
    assert kept == BLOB[: 1 << 20]


def test_the_client_may_change_keys_under_load(stage: Stage) -> None:
    stage.config("me", "RekeyLimit 1M")
    assert stage.ssh("web-1.gw", "cat", input=BLOB).stdout == BLOB


def test_the_gateway_changes_keys_under_load(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_keys, "REKEY_OCTETS", 1 << 20)
    assert stage.ssh("web-1.gw", "cat", input=BLOB).stdout == BLOB


def test_a_client_without_gcm_is_served(stage: Stage) -> None:
    stage.config("me", "Ciphers aes256-ctr", "MACs hmac-sha2-256-etm@openssh.com")
    assert stage.ssh("web-1.gw", "cat", input=BLOB[:1_000_000]).stdout == BLOB[:1_000_000]


@pytest.mark.parametrize(
    "weak",
    [
        "Ciphers aes128-cbc",
        "Ciphers 3des-cbc",
        "MACs hmac-sha1",
        "KexAlgorithms ecdh-sha2-nistp256",
        "KexAlgorithms diffie-hellman-group14-sha256",
        "KexAlgorithms diffie-hellman-group-exchange-sha256",
        "HostKeyAlgorithms ssh-rsa",
    ],
)
def test_weak_algorithms_are_not_spoken(stage: Stage, weak: str) -> None:
    extra = ["Ciphers aes128-ctr"] if weak.startswith("MACs") else []
    stage.config("me", weak, *extra)
    done = stage.ssh("-o", "LogLevel=INFO", "web-1.gw", "true")
    assert (done.returncode, b"no matching" in done.stderr) == (255, True)


def test_an_idle_session_takes_four_threads(stage: Stage) -> None:
    before = threading.active_count()
    person = Terminal(stage, "echo rea''dy; read line")
    person.expect("ready")
    assert threading.active_count() - before <= 4
    person.type("\n")
    person.close()


def test_input_ends_where_the_person_ends_it(stage: Stage) -> None:
    done = stage.ssh("web-1.gw", "wc -c; echo after", input=b"x" * 100_000)
    assert done.stdout.split() == [b"100000", b"after"]


def test_large_stderr_and_stdout_at_once(stage: Stage) -> None:
    done = stage.ssh("web-1.gw", "head -c 5000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait")
    assert (len(done.stdout), len(done.stderr)) == (5_000_000, 5_000_000)


@pytest.mark.client("OpenSSH ssh", "terminal")
def test_a_terminal_with_size_resize_and_signals(stage: Stage) -> None:
    person = Terminal(stage, "echo rea''dy; read line; stty size; read line; echo got $line; sleep 60")
    _set_size(person, 40, 132)
    person.expect("ready")
    _set_size(person, 50, 100)
    person.process.send_signal(signal.SIGWINCH)
    stage.wait(lambda: stage.recordings)
    _settle(lambda: len(stage.recordings[0].of("resize")))
    person.type("\n")
    person.expect(r"50 100")
    person.type("hello\n")
    person.expect("got hello")
    person.type("\x03")  # the terminal's own interrupt, handled on the target
    assert person.close() in (130, 255)
    recording = stage.recordings[0]
    started = json.loads(recording.of("channel")[0])
    assert started["type"] == "exec"
    assert started["term"]
    assert {"channel": 0, "columns": 100, "rows": 50} in [json.loads(r) for r in recording.of("resize")]
    assert b"ready" in b"".join(piece[4:] for piece in recording.of("out"))
    assert recording.of("typed")
    assert not recording.of("in")  # what is typed may be a password


def _set_size(person: Terminal, rows: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(person.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@pytest.mark.client("OpenSSH ssh", "terminal")
def test_a_shell_without_a_command(stage: Stage) -> None:
    person = Terminal(stage)
    person.type("echo si$((40+2))\n")
    person.expect("si42")
    person.type("exit 3\n")
    assert person.close() == 3


def test_environment_is_an_allow_list(stage: Stage) -> None:
    stage.config("me", "SendEnv LANG LC_* LD_PRELOAD SECRET_*", "SetEnv PATH=/evil LC_NOTE=kept BASH_ENV=/tmp/evil")
    done = stage.ssh("web-1.gw", "env", env={**os.environ, "LANG": "C.UTF-8", "LD_PRELOAD": "", "SECRET_X": "1"})
    said = dict(line.split(b"=", 1) for line in done.stdout.splitlines() if b"=" in line)
    assert said[b"LC_NOTE"] == b"kept"
    assert said[b"LANG"] == b"C.UTF-8"
    assert b"/evil" not in done.stdout
    assert b"SECRET_X" not in said
    assert b"LD_PRELOAD" not in said


@pytest.mark.parametrize("legacy", [[], ["-O"]], ids=["sftp", "legacy"])
@pytest.mark.client("OpenSSH scp and scp -O", "files", "certificate")
def test_scp_both_ways(stage: Stage, tmp_path: Path, legacy: list[str]) -> None:
    mine, there, back = tmp_path / "mine", tmp_path / "there", tmp_path / "back"
    mine.write_bytes(BLOB[:3_000_000])
    scp = ["scp", *legacy, "-F", str(tmp_path / "ssh_config.me")]
    subprocess.run([*scp, str(mine), f"web-1.gw:{there}"], check=True, timeout=60)
    subprocess.run([*scp, f"web-1.gw:{there}", str(back)], check=True, timeout=60)
    assert back.read_bytes() == mine.read_bytes()
    stage.wait(lambda: len(stage.ended) == 2)
    up = [json.loads(r) for r in stage.recordings[0].of("stream")]
    assert any(s["stream"] == "in" and s["octets"] > 3_000_000 and s["kept"] == 0 for s in up)


@pytest.mark.client("OpenSSH sftp", "files", "certificate")
def test_sftp_batch(stage: Stage, tmp_path: Path) -> None:
    batch = tmp_path / "batch"
    (tmp_path / "local").write_bytes(b"content")
    batch.write_text(f"put {tmp_path / 'local'} {tmp_path / 'remote'}\nls -l {tmp_path / 'remote'}\n")
    subprocess.run(
        ["sftp", "-F", str(tmp_path / "ssh_config.me"), "-b", str(batch), "web-1.gw"], check=True, timeout=60
    )
    assert (tmp_path / "remote").read_bytes() == b"content"
    started = json.loads(stage.recordings[0].of("channel")[0])
    assert (started["type"], started["command"]) == ("subsystem", "sftp")


@pytest.mark.client("rsync", "files", "certificate")
def test_rsync(stage: Stage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(BLOB[:100_000])
    shell = f"ssh -F {tmp_path / 'ssh_config.me'}"
    subprocess.run(["rsync", "-a", "-e", shell, f"{source}/", f"web-1.gw:{tmp_path}/copy/"], check=True, timeout=60)
    assert (tmp_path / "copy" / "a").read_bytes() == BLOB[:100_000]


@pytest.mark.client("OpenSSH ssh with ControlMaster", "many", "certificate")
def test_many_channels_share_one_session(stage: Stage, tmp_path: Path) -> None:
    stage.config("me", f"ControlPath {tmp_path / 'mux'}", "ControlMaster auto", "ControlPersist 60")
    for number in range(12):
        assert stage.ssh("web-1.gw", f"exit {number}").returncode == number
    running = [subprocess.Popen(stage.ssh_args("web-1.gw", "cat"), stdin=-1, stdout=-1, stderr=-1) for _ in range(5)]
    for process in running:
        assert process.communicate(b"through", timeout=30)[0] == b"through"
    subprocess.run(stage.ssh_args("-O", "exit", "web-1.gw"), check=True, capture_output=True, timeout=30)
    stage.wait(lambda: stage.ended)
    assert len(stage.opened) == 1


def test_a_slow_reader_slows_the_target_and_costs_no_memory(stage: Stage) -> None:
    process = subprocess.Popen(
        stage.ssh_args("web-1.gw", "head -c 400000000 /dev/zero"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(1_000_000)
    before = _resident()
    stage.wait(lambda: stage.recordings)
    _settle(lambda: len(stage.recordings[0].records))
    assert _resident() - before < 120_000  # KiB; 400 MB were asked for
    process.kill()
    process.wait(10)
    process.stdout.close()
    stage.wait(lambda: stage.ended)


def test_a_slow_target_slows_the_person_and_costs_no_memory(stage: Stage, tmp_path: Path) -> None:
    pieces, begun = 200, threading.Event()
    sent: list[int] = []
    command = f"until test -e {tmp_path / 'go'}; do sleep 0.05; done; wc -c"
    with subprocess.Popen(stage.ssh_args("web-1.gw", command), stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def upload(into: IO[bytes]) -> None:
            with into:
                for _ in range(pieces):
                    sent.append(into.write(bytes(1_000_000)))
                    begun.set()

        stage.wait(lambda: stage.live)
        before = _resident()
        uploading = threading.Thread(target=upload, args=(process.stdin,))
        uploading.start()
        is_begun = begun.wait(20)
        _settle(lambda: len(sent))
        held_back, growth = pieces - len(sent), _resident() - before
        (tmp_path / "go").touch()
        assert process.stdout.read() == b"%d\n" % (pieces * 1_000_000)
        uploading.join(20)
    assert is_begun
    assert held_back > pieces / 2, "nobody read, and nobody was slowed down"
    assert growth < 60_000  # KiB; one channel may hold 8 MiB each way


def _resident() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)


def _settle(value: Callable[[], int]) -> None:
    seen, quiet = value(), 0
    deadline = time.monotonic() + 20
    while quiet < 5 and time.monotonic() < deadline:
        threading.Event().wait(0.1)
        now = value()
        quiet, seen = (quiet + 1, seen) if now == seen else (0, now)


# ---------------------------------------------------------------- the record


def test_the_start_of_a_command_is_durable_before_it_runs(stage: Stage) -> None:
    stage.require = True
    assert stage.ssh("web-1.gw", "true").returncode == 0
    recording = stage.recordings[0]
    assert recording.waited == [next(i for i, (kind, _) in enumerate(recording.records) if kind == "channel")]


def test_without_a_record_the_session_ends(stage: Stage) -> None:
    person = Terminal(stage, "echo rea''dy; while read line; do echo again; done")
    person.expect("ready")
    stage.recordings[0].fail = True
    person.type("one\n")
    person.expect("can no longer be recorded")
    assert person.close() != 0
    stage.wait(lambda: stage.ended)
    assert stage.ended[0][1] is EndReason.RECORDING_FAILED


# ---------------------------------------------------------------- ending


def test_a_kill_ends_an_idle_terminal_with_a_sentence(stage: Stage) -> None:
    person = Terminal(stage, "echo rea''dy; sleep 300")
    person.expect("ready")
    began = time.monotonic()
    stage.live["ses_0"].terminate(EndReason.KILLED, "by lead")
    assert time.monotonic() - began < 0.2  # it returns at once
    person.expect(r"ended by an operator. \(by lead\)", 5)
    assert person.close() in (254, 255)
    stage.wait(lambda: stage.ended, 1)
    assert stage.ended == [("ses_0", EndReason.KILLED, "by lead")]


def test_a_kill_ends_a_client_that_does_not_read(stage: Stage) -> None:
    process = subprocess.Popen(
        stage.ssh_args("web-1.gw", "cat /dev/zero"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(10)
    process.send_signal(signal.SIGSTOP)
    stage.wait(lambda: "ses_0" in stage.live)
    _settle(lambda: len(stage.recordings[0].records))
    stage.live["ses_0"].terminate(EndReason.GRANT_REVOKED, "")
    stage.wait(lambda: stage.ended, 3)
    process.send_signal(signal.SIGCONT)
    process.stdout.close()
    process.kill()
    process.wait(10)


def test_a_kill_is_felt_on_the_target(stage: Stage, tmp_path: Path) -> None:
    mark = tmp_path / "gone"
    person = Terminal(stage, f"trap 'touch {mark}' HUP; echo rea''dy; sleep 300 & wait")
    person.expect("ready")
    stage.live["ses_0"].terminate(EndReason.GRANT_EXPIRED, "")
    person.expect("Your grant has ended")
    person.close()
    deadline = time.monotonic() + 5
    while not mark.exists():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_a_warning_appears_on_the_terminal(stage: Stage) -> None:
    person = Terminal(stage, "echo rea''dy; read line")
    person.expect("ready")
    stage.live["ses_0"].warn("Your grant ends in 5 minutes.")
    person.expect("ends in 5 minutes")
    person.type("\n")
    person.close()
    assert [json.loads(r)["text"] for r in stage.recordings[0].of("note")] == ["Your grant ends in 5 minutes."]


def test_closing_the_door_ends_sessions(stage: Stage) -> None:
    person = Terminal(stage, "echo rea''dy; sleep 300")
    person.expect("ready")
    assert stage.door is not None
    stage.door.close()
    person.expect("gateway is stopping")
    person.close()
    assert [reason for _, reason, _ in stage.ended] == [EndReason.GATEWAY_STOPPED]


def test_a_target_that_drops_ends_the_session(tmp_path: Path, authorities: SshAuthorities) -> None:
    with Sshd(tmp_path / "sshd", authorities.target_ca_public) as own:
        stage = make_stage(tmp_path, own, authorities)
        door = stage.open_door()
        person = Terminal(stage, "echo pid $PPID; sleep 300")
        found = person.expect(r"pid (\d+)")
        os.kill(int(found[1]), signal.SIGKILL)
        person.expect("target closed the connection")
        person.close()
        stage.wait(lambda: stage.ended)
        assert stage.ended[0][1] is EndReason.TARGET_CLOSED
        door.close()


# ---------------------------------------------------------------- refusing


def test_a_no_is_told_on_stderr_with_what_to_do(stage: Stage) -> None:
    stage.refusal = Refusal("no-grant", "You have no grant for web-1.", (), ("gw request web-1 --level shell",))
    done = stage.ssh("web-1.gw", "true")
    assert done.returncode == 254
    assert b"You have no grant for web-1." in done.stderr
    assert b"gw request web-1 --level shell" in done.stderr
    assert not stage.opened


def test_another_host_key_is_refused(stage: Stage, authorities: SshAuthorities) -> None:
    stage.with_target(host_keys=(authorities.host_key_public,))
    done = stage.ssh("web-1.gw", "true")
    assert done.returncode == 254
    assert b"host key of web-1 is not the one in the catalogue" in done.stderr
    stage.wait(lambda: stage.ended)
    assert stage.ended == [("ses_0", EndReason.TARGET_UNREACHABLE, "host-key-changed")]


def test_a_target_that_is_down(stage: Stage) -> None:
    stage.with_target(port=1)
    done = stage.ssh("web-1.gw", "true")
    assert (done.returncode, b"cannot be reached" in done.stderr) == (254, True)


def test_a_shared_connection_to_a_target_that_is_down_does_not_stay(stage: Stage, tmp_path: Path) -> None:
    stage.with_target(port=1)
    stage.config("me", f"ControlPath {tmp_path / 'mux'}", "ControlMaster auto", "ControlPersist 300")
    assert stage.ssh("web-1.gw", "true", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 254
    stage.wait(lambda: stage.ended, 10)
    assert stage.ended == [("ses_0", EndReason.TARGET_UNREACHABLE, "target-unreachable")]


def test_a_target_that_does_not_trust_the_gateway(tmp_path: Path, authorities: SshAuthorities) -> None:
    stranger = SshAuthorities(tmp_path / "stranger")
    with Sshd(tmp_path / "sshd", stranger.target_ca_public) as other:
        stage = make_stage(tmp_path, other, authorities)
        door = stage.open_door()
        done = stage.ssh("web-1.gw", "true")
        assert (done.returncode, b"does not accept the gateway's certificate" in done.stderr) == (254, True)
        door.close()


def test_a_local_forward_is_refused(stage: Stage) -> None:
    done = stage.ssh("-o", "LogLevel=INFO", "-W", "127.0.0.1:22", "web-1.gw")
    assert done.returncode == 255
    assert b"administratively prohibited" in done.stderr


@pytest.mark.parametrize("forward", ["0:127.0.0.1:1", "{tmp}/sock:/run/x"], ids=["tcp", "unix"])
def test_a_remote_forward_is_refused(stage: Stage, tmp_path: Path, forward: str) -> None:
    done = stage.ssh("-o", "ExitOnForwardFailure=yes", "-R", forward.format(tmp=tmp_path), "web-1.gw", "true")
    assert done.returncode == 255


def test_agent_and_x11_are_refused_and_recorded(stage: Stage) -> None:
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(SSH_\w+)=([^;]+)", agent))
    try:
        stage.config("me", "ForwardAgent yes")
        text = (stage.directory / "ssh_config.me").read_text().replace("  IdentityAgent none\n", "")
        (stage.directory / "ssh_config.me").write_text(text)
        done = stage.ssh("web-1.gw", "echo sock=$SSH_AUTH_SOCK", env={**os.environ, **found})
        assert done.stdout == b"sock=\n"
        assert {"channel": 0, "what": "auth-agent-req@openssh.com"} in [
            json.loads(r) for r in stage.recordings[0].of("refused")
        ]
    finally:
        os.kill(int(found["SSH_AGENT_PID"]), signal.SIGTERM)
