"""What a level lets through on an SSH connection: pure answers to "may this pass?"; the enforcer is the SSH door.

RULES
1. Nothing listed, nothing allowed: forwards, agent and X11 are closed unless a level opens them.
2. A command list is matched against the whole line. A line with shell syntax (`; | & $ ( ) < >`, backquote, newline)
   matches `*` alone: everything else would let a second command ride on the first.
3. Where the shell is closed or commands are listed, files move only by file rules: who may write any file may run
   any command (~/.bashrc, ~/.ssh).
4. A forward never reaches the target's own sshd: it would open a connection that nobody records. On sshd's ports a
   rule must name the host in full, and a name or address of the target itself is refused whatever the rule. So are the
   sockets on which systemd starts an sshd.
5. Variables with which other programs are started or loaded never pass, whatever the glob.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.core.target import Level, SshRules

LONGEST_ENV = 4096  # octets of one variable's value
_SHELL_SYNTAX = re.compile(r"[;|&`$()<>\n\r\0]")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NEVER_ENV = (
    "LD_*", "DYLD_*", "BASH_FUNC_*", "PATH", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "IFS", "PS4",
    "PROMPT_COMMAND", "PYTHON*", "PERL5*", "RUBY*", "NODE_*", "JAVA_*", "GIT_*", "GCONV_PATH", "LOCPATH", "HOME",
    "SHELL", "*PAGER", "LESS*", "*EDITOR", "VISUAL", "SSH_*", "TERMINFO*", "TERMCAP", "GLIBC_TUNABLES", "MALLOC_*",
    "NLSPATH", "SYSTEMD_*", "VIM*", "EXINIT", "INPUTRC", "ZDOTDIR", "TAR_OPTIONS", "MAKEFLAGS", "*_RSH", "RSYNC_*",
    "_JAVA_*", "JDK_*", "CLASSPATH", "LUA_*", "OPENSSL_*", "XDG_CONFIG_*", "XDG_DATA_*", "BROWSER",
)  # fmt: skip
_SSH_PORT = 22
_WILD = re.compile(r"[*?\[]")
# What getaddrinfo takes for an address although it is none in full (inet_aton): 127.1, 0x7f.1, 2130706433.
_SHORT_ADDRESS = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}")
_SSHD_SOCKETS = re.compile(r"(/var)?/run/ssh-unix-local(/.*)?", re.DOTALL)  # systemd-ssh-generator(8)
_OWN_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "localhost4", "localhost6")


@dataclass(frozen=True, slots=True)
class Tcp:
    """Where a forward leads, or listens. `host` as the client wrote it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Socket:
    """A unix socket on the target."""

    path: str

    def __str__(self) -> str:
        return self.path


Place = Tcp | Socket


# ---------------------------------------------------------------- sessions


def may_shell(level: Level) -> bool:
    """True when a shell may be asked for. A forced command runs in its place, so that there it is none."""
    return level.ssh.shell or level.force_command is not None


def may_run(rules: SshRules, command: bytes) -> bool:
    """True when a command line (as the client sent it) is on the level's list, or there is no list."""
    if not rules.commands or "*" in rules.commands:
        return True
    try:
        line = command.decode()
    except UnicodeDecodeError:
        return False
    return not _SHELL_SYNTAX.search(line) and any(fnmatchcase(line, glob) for glob in rules.commands)


def may_transfer(rules: SshRules) -> bool:
    """True when sftp may be started at all; which files may move is the file rules' to say."""
    return bool(rules.files) or (rules.shell and (not rules.commands or "*" in rules.commands))


def may_set(rules: SshRules, name: str) -> bool:
    """True when a variable of the person's environment may reach the target."""
    return (
        _ENV_NAME.fullmatch(name) is not None
        and not any(fnmatchcase(name.upper(), never) for never in _NEVER_ENV)
        and any(fnmatchcase(name, glob) for glob in rules.env)
    )


# ---------------------------------------------------------------- forwards


def forwards_anything(rules: SshRules) -> bool:
    """True when the level opens forwards of any direction."""
    return bool(rules.forwards or rules.remote_forwards)


def may_forward(rules: SshRules, place: Place, sshd_port: int, own: Sequence[str]) -> bool:
    """True when the level opens a destination that the target is to dial.

    `sshd_port` is where the target's sshd listens; `own` are names and addresses that are known to be the target.
    """
    if isinstance(place, Socket):
        return _path_allowed(rules.forwards, place.path) and not _SSHD_SOCKETS.fullmatch(place.path)
    host = _canonical(place.host)
    if host is None or not 1 <= place.port <= 0xFFFF:
        return False
    if place.port in (sshd_port, _SSH_PORT) and _is_own(host, own):
        return False
    exact = place.port in (sshd_port, _SSH_PORT)
    return any(_matches(glob, host, place.port, exact=exact) for glob in rules.forwards)


def may_listen(rules: SshRules, place: Place) -> bool:
    """True when the level opens an address on which the target is to listen; `Tcp("", …)` means every interface."""
    if isinstance(place, Socket):
        return _path_allowed(rules.remote_forwards, place.path)
    host = _canonical(place.host) if place.host else "*"
    if host is None or not 0 <= place.port <= 0xFFFF:
        return False
    return any(_matches(glob, host, place.port, exact=False) for glob in rules.remote_forwards)


def _canonical(host: str) -> str | None:
    """A host in one spelling; None for what is empty, endless or an address in disguise."""
    text = host.strip("[]").rstrip(".").lower()
    if not text or len(text) > 255 or not text.isascii() or not text.isprintable() or _WILD.search(text):
        return None
    address = _address(text)
    if address is not None:
        return str(address)
    return None if ":" in text or _SHORT_ADDRESS.fullmatch(text) else text


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_own(host: str, own: Sequence[str]) -> bool:
    address = _address(host)
    if address is None:
        return host in _OWN_NAMES or host.endswith(".localhost") or host in {_canonical(name) for name in own}
    if address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast:
        return True
    return str(address) in {_canonical(name) for name in own}


def _matches(glob: str, host: str, port: int, *, exact: bool) -> bool:
    """`host:port` with globs in either part; an IPv6 address stands in brackets."""
    wanted_host, _, wanted_port = glob.rpartition(":")
    wanted_host = wanted_host.strip("[]").lower()
    if not fnmatchcase(str(port), wanted_port) or (exact and _WILD.search(wanted_host)):
        return False
    names = ("localhost", "127.0.0.1", "::1") if host == "localhost" else (host,)
    known = wanted_host if _WILD.search(wanted_host) else _canonical(wanted_host) or wanted_host
    return any(fnmatchcase(name, known) for name in names)


def _path_allowed(globs: Sequence[str], path: str) -> bool:
    """`*` stays within a component, `**` does not. A path that could mean another one is refused."""
    parts = path.split("/")
    if not path.startswith("/") or len(path) > 1024 or "\0" in path or any(p in ("", ".", "..") for p in parts[1:]):
        return False
    return any(glob.startswith("/") and _components_match(glob.split("/")[1:], parts[1:]) for glob in globs)


def _components_match(globs: Sequence[str], parts: Sequence[str]) -> bool:
    reachable = {0}  # how many parts the globs so far may have taken
    for glob in globs:
        if glob == "**":
            reachable = set(range(min(reachable), len(parts) + 1)) if reachable else set()
        else:
            reachable = {at + 1 for at in reachable if at < len(parts) and fnmatchcase(parts[at], glob)}
    return len(parts) in reachable


# ---------------------------------------------------------------- certificates


def certificate_serial(session_id: str) -> int:
    """The serial (1 to 2^63-1) of the one certificate that is made for a session; known from the session alone."""
    return int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:8], "big") >> 1 | 1
