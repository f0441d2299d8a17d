"""Many people at terminals, in one process: `python -m tests.bench.crowd SSH_CONFIG`.

Reads one JSON object a line and answers each with one: `{"grow": 500, "user": "shell%web-1"}` opens that many more
recorded terminals, `{"cut": "shell%web-1"}` waits until those of that user name are closed and says when each was,
`{"held": true}` how many are open. A thread each, as paramiko has it.
"""

import json
import os
import select
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

AT_ONCE = 6
WITHIN_S = 60.0


class Terminal(paramiko.Transport):
    """Waits to be woken: paramiko looks ten times a second, which a thousand of them turn into a core."""

    _active_check_timeout = 60.0


class Closings:
    """The wall clock at which each connection's other side was closed, as the kernel has it (EPOLLRDHUP)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._seen: dict[int, float] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, daemon=True).start()

    def expect(self, sock: socket.socket) -> int:
        """A number to ask for it by."""
        own = os.dup(sock.fileno())  # stays open whatever its transport does
        self._epoll.register(own, select.EPOLLRDHUP | select.EPOLLONESHOT)
        return own

    def of(self, numbers: list[int]) -> list[float]:
        with self._changed:
            assert self._changed.wait_for(lambda: all(each in self._seen for each in numbers), WITHIN_S)
            return [self._seen[each] for each in numbers]

    def count(self, numbers: list[int]) -> int:
        return sum(each not in self._seen for each in numbers)

    def _watch(self) -> None:
        while True:
            closed = [number for number, _ in self._epoll.poll()]
            with self._changed:
                self._seen |= dict.fromkeys(closed, time.time())
                self._changed.notify_all()


@dataclass(slots=True)
class Crowd:
    """Whom a host of an OpenSSH configuration knows, many times over."""

    config: paramiko.SSHConfigDict
    closings: Closings = field(default_factory=Closings)
    held: dict[str, list[int]] = field(default_factory=dict)
    kept: list[paramiko.Transport] = field(default_factory=list)

    def arrive(self, user: str) -> float:
        """One more; the seconds until its terminal had its first output."""
        start = time.perf_counter()
        address = (self.config["hostname"], int(self.config["port"]))
        sock = socket.create_connection(address, timeout=WITHIN_S)
        transport = Terminal(sock)
        transport.start_client(timeout=WITHIN_S)
        key = paramiko.Ed25519Key.from_private_key_file(self.config["identityfile"][0].strip('"'))
        key.load_certificate(self.config["certificatefile"].strip('"'))
        transport.auth_publickey(user, key)
        channel = transport.open_session(timeout=WITHIN_S)
        channel.get_pty()
        try:
            channel.exec_command("printf ready; exec cat")
        except paramiko.SSHException as no:  # the door has told why
            raise RuntimeError(channel.recv_stderr(1000).decode() or str(no)) from no
        channel.settimeout(WITHIN_S)
        seen = b""
        while b"ready" not in seen:
            seen += channel.recv(100) or _gone(user)
        self.held.setdefault(user, []).append(self.closings.expect(sock))
        self.kept.append(transport)
        return time.perf_counter() - start

    def grow(self, count: int, user: str) -> list[float]:
        """`AT_ONCE` at a time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda _: self.arrive(user), range(count)))

    def cut(self, user: str) -> list[float]:
        """When each of them was closed."""
        return self.closings.of(self.held.pop(user))

    def count(self) -> int:
        """How many are still there."""
        return sum(self.closings.count(crowd) for crowd in self.held.values())


def _gone(user: str) -> bytes:
    raise RuntimeError(f"a terminal of {user} was closed")


def main() -> None:
    threading.stack_size(256 * 1024)
    os.nice(5)  # people's machines are their own; here they share the gateway's cores
    config = paramiko.SSHConfig.from_text(
        "\n".join(line for line in Path(sys.argv[1]).read_text().splitlines() if not line.startswith("Match"))
    )
    crowd = Crowd(config.lookup(sys.argv[2]))
    for line in sys.stdin:
        asked = json.loads(line)
        if "grow" in asked:
            answer: object = crowd.grow(asked["grow"], asked["user"])
        elif "cut" in asked:
            answer = crowd.cut(asked["cut"])
        else:
            answer = crowd.count()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
