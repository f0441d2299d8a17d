from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ssh_rules import (
    Socket,
    Tcp,
    certificate_serial,
    forwards_anything,
    may_forward,
    may_listen,
    may_run,
    may_set,
    may_shell,
    may_transfer,
)
from gateway.core.target import FileRule, Level, SshRules

OWN = ("web-1.internal", "10.0.0.5")
LOGS = SshRules(commands=("journalctl *", "tail *", "uptime"))


def forward(globs: tuple[str, ...], host: str, port: int) -> bool:
    return may_forward(SshRules(forwards=globs), Tcp(host, port), 2222, OWN)


@pytest.mark.parametrize("line", ["journalctl -u orders", "tail -f /var/log/syslog", "uptime", "tail 'a b'"])
def test_a_listed_command_may_run(line: str) -> None:
    assert may_run(LOGS, line.encode())


@pytest.mark.parametrize("line", ["", "sh", "uptime now", "Uptime", " uptime", "cat /etc/shadow", "/usr/bin/uptime"])
def test_what_is_not_listed_may_not(line: str) -> None:
    assert not may_run(LOGS, line.encode())


@pytest.mark.parametrize("syntax", [";", "|", "&", "`", "$(", "${", "\n", "\r", ">", "<", "(", "&&", "\0"])
def test_shell_syntax_is_no_argument(syntax: str) -> None:
    line = f"tail x{syntax} id".encode()
    assert not may_run(LOGS, line)
    assert may_run(SshRules(commands=("*",)), line)
    assert may_run(SshRules(), line)


def test_a_command_that_is_not_text_matches_no_list() -> None:
    assert not may_run(LOGS, b"tail \xff")
    assert may_run(SshRules(), b"tail \xff")


@given(st.text(), st.sampled_from(";|&`$()<>\n\r\0"), st.text())
def test_no_line_with_shell_syntax_matches_a_list(head: str, syntax: str, tail: str) -> None:
    line = (head + syntax + tail).encode("utf-8", "surrogatepass")
    assert not may_run(SshRules(commands=("tail *", "**", "?*", "* *", "[!x]*")), line)


def test_files_move_by_rules_where_commands_do() -> None:
    assert may_transfer(SshRules())
    assert not may_transfer(LOGS)
    assert not may_transfer(SshRules(shell=False))
    assert may_transfer(replace(LOGS, files=(FileRule(True, "/var/log/**", "download"),)))


def test_a_forced_command_runs_in_the_place_of_a_shell() -> None:
    closed = Level("logs", "deploy", 0, ssh=SshRules(shell=False))
    assert not may_shell(closed)
    assert may_shell(replace(closed, force_command="/bin/rescue"))
    assert may_shell(Level("shell", "deploy", 0))


@pytest.mark.parametrize("name", ["LANG", "LC_ALL", "TERM", "COLORTERM"])
def test_language_passes(name: str) -> None:
    assert may_set(SshRules(), name)


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD", "ld_preload", "PATH", "BASH_ENV", "BASH_FUNC_x", "PAGER", "GIT_SSH", "A=B", "", "LC_\n", "É",
        "LESS", "SYSTEMD_LESS", "VIMINIT", "ZDOTDIR", "GLIBC_TUNABLES", "TAR_OPTIONS", "RSYNC_RSH", "XDG_CONFIG_HOME", "_JAVA_OPTIONS",
    ],
)  # fmt: skip
def test_what_runs_code_never_passes(name: str) -> None:
    assert not may_set(SshRules(env=("*",)), name)


@pytest.mark.parametrize("path", ["/run/ssh-unix-local/socket", "/var/run/ssh-unix-local/x\ny"])
def test_the_socket_of_the_targets_own_sshd_is_out_of_reach(path: str) -> None:
    assert not may_forward(SshRules(forwards=("/**", path)), Socket(path), 22, OWN)
    assert may_forward(SshRules(forwards=("/**", path)), Socket(path.replace("ssh", "app")), 22, OWN)


def test_forwards_are_closed_by_default() -> None:
    assert not forwards_anything(SshRules())
    assert not forward((), "127.0.0.1", 9090)
    assert not may_listen(SshRules(), Tcp("localhost", 8080))
    assert not may_forward(SshRules(), Socket("/run/app.sock"), 22, OWN)


@pytest.mark.parametrize(
    ("glob", "host", "port", "allowed"),
    [
        ("127.0.0.1:9090", "127.0.0.1", 9090, True),
        ("127.0.0.1:9090", "localhost", 9090, True),
        ("127.0.0.1:9090", "::ffff:127.0.0.1", 9090, True),
        ("127.0.0.1:9090", "127.0.0.1", 9091, False),
        ("127.0.0.1:9090", "127.1", 9090, False),
        ("*:*", "127.1", 9090, False),
        ("*:*", "2130706433", 9090, False),
        ("*:*", "0x7f000001", 9090, False),
        ("*:*", "", 9090, False),
        ("*:*", "127.0.0.1", 0, False),
        ("*:*", "127.0.0.1", 65536, False),
        ("*:443", "shop.internal", 443, True),
        ("*.internal:5432", "db.internal", 5432, True),
        ("*.internal:5432", "db.internal.", 5432, True),
        ("*.internal:5432", "DB.Internal", 5432, True),
        ("*.internal:5432", "internal", 5432, False),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:80", "0:0:0:0:0:0:0:1", 80, True),
        ("[2001:db8::*]:443", "2001:db8::7", 443, True),
        ("[2001:db8::*]:443", "2001:db9::7", 443, False),
        ("127.0.0.1:90*", "127.0.0.1", 9090, True),
        ("nonsense", "127.0.0.1", 9090, False),
        ("/run/*", "127.0.0.1", 9090, False),
    ],
)
def test_destinations(glob: str, host: str, port: int, allowed: bool) -> None:
    assert forward((glob,), host, port) is allowed


@pytest.mark.parametrize("port", [22, 2222])
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST.", "x.localhost", "::1", "[::1]", "::ffff:127.0.0.1",
        "::ffff:7f00:1", "0.0.0.0", "::", "10.0.0.5", "::ffff:10.0.0.5", "web-1.internal", "WEB-1.internal.",
        "127.1", "0", "ip6-localhost", "fe80::1", "fe80::1%eth0", "192.168.7.7", "anything.example",
    ],
)  # fmt: skip
def test_the_targets_own_sshd_is_no_destination(host: str, port: int) -> None:
    assert not forward(("*:*", "127.0.0.*:*", "localhost:*", "[::1]:*", f"localhost:{port}", "*"), host, port)
    assert not forward((f"{host}:{port}",), host, port) or host in ("192.168.7.7", "anything.example")


def test_another_server_by_its_full_name_is_the_catalogues_decision() -> None:
    assert forward(("db-2.internal:22",), "db-2.internal", 22)
    assert not forward(("db-?.internal:22",), "db-2.internal", 22)


@given(st.text(max_size=40), st.integers(0, 70000), st.sampled_from(["*:*", "*:22", "127.*:*", "[*]:*", "*"]))
def test_no_spelling_reaches_an_sshd_through_a_glob(host: str, port: int, glob: str) -> None:
    if port in (22, 2222):
        assert not forward((glob,), host, port)
    assert isinstance(forward((glob,), host, port), bool)


@pytest.mark.parametrize(
    ("glob", "path", "allowed"),
    [
        ("/run/app.sock", "/run/app.sock", True),
        ("/run/*", "/run/app.sock", True),
        ("/run/*", "/run/app/x.sock", False),
        ("/run/**", "/run/app/x.sock", True),
        ("/run/**/x.sock", "/run/x.sock", True),
        ("/run/**", "/var/x", False),
        ("/run/**", "/run/../etc/x", False),
        ("/run/**", "/run//x", False),
        ("/run/**", "/run/./x", False),
        ("/run/**", "run/x", False),
        ("/run/**", "/run/x\0", False),
        ("*:*", "/run/x", False),
    ],
)
def test_unix_sockets(glob: str, path: str, allowed: bool) -> None:
    assert may_forward(SshRules(forwards=(glob,)), Socket(path), 22, OWN) is allowed
    assert may_listen(SshRules(remote_forwards=(glob,)), Socket(path)) is allowed


@pytest.mark.parametrize(
    ("glob", "host", "port", "allowed"),
    [
        ("localhost:8080", "localhost", 8080, True),
        ("127.0.0.1:8080", "localhost", 8080, True),
        ("localhost:8080", "", 8080, False),
        ("*:8080", "", 8080, True),
        ("localhost:*", "localhost", 0, True),
        ("localhost:8080", "localhost", 0, False),
    ],
)
def test_listening_addresses(glob: str, host: str, port: int, allowed: bool) -> None:
    assert may_listen(SshRules(remote_forwards=(glob,)), Tcp(host, port)) is allowed


def test_places_are_written_as_people_write_them() -> None:
    assert [str(p) for p in (Tcp("::1", 80), Tcp("db", 5432), Socket("/run/x"))] == ["[::1]:80", "db:5432", "/run/x"]


@given(st.text())
def test_a_serial_is_positive_and_steady(session_id: str) -> None:
    text = session_id.encode("utf-8", "replace").decode()
    assert 1 <= certificate_serial(text) < 1 << 63
    assert certificate_serial(text) == certificate_serial(text)
