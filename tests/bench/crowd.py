"""Many people at terminals, in one process: `python -m tests.bench.crowd SSH_CONFIG`.

Reads one JSON object a line and answers each with one: `{"grow": 500, "user": "shell%web-1"}` opens that many more
recorded terminals, `{"cut": "shell%web-1"}` waits until those of that user name are closed and says when each was,
`{"held": true}` how many are open. A thread each, as paramiko has it.
"""

import json
import os
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
    """One connection with one terminal; `closed_at` is the wall clock when it ended, however it ended."""

    closed_at = 0.0

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.closed_at = time.time()


@dataclass(slots=True)
class Crowd:
    """Whom a host of an OpenSSH configuration knows, many times over."""

    config: paramiko.SSHConfigDict
    held: dict[str, list[Terminal]] = field(default_factory=dict)

    def arrive(self, user: str) -> float:
        """One more; the seconds until its terminal had its first output."""
        start = time.perf_counter()
        address = (self.config["hostname"], int(self.config["port"]))
        transport = Terminal(socket.create_connection(address, timeout=WITHIN_S))
        transport.start_client(timeout=WITHIN_S)
        key = paramiko.Ed25519Key.from_private_key_file(self.config["identityfile"][0].strip('"'))
        key.load_certificate(self.config["certificatefile"].strip('"'))
        transport.auth_publickey(user, key)
        channel = transport.open_session(timeout=WITHIN_S)
        channel.get_pty()
        channel.exec_command("printf ready; exec cat")
        channel.settimeout(WITHIN_S)
        seen = b""
        while b"ready" not in seen:
            seen += channel.recv(100) or _gone(user)
        self.held.setdefault(user, []).append(transport)
        return time.perf_counter() - start

    def grow(self, count: int, user: str) -> list[float]:
        """`AT_ONCE` at a time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda _: self.arrive(user), range(count)))

    def cut(self, user: str) -> list[float]:
        """When each of them was closed."""
        deadline = time.monotonic() + WITHIN_S
        leaving = self.held.pop(user)
        for each in leaving:
            each.join(max(0.0, deadline - time.monotonic()))
        return [each.closed_at for each in leaving]

    def count(self) -> int:
        """How many are still there."""
        return sum(each.is_active() for crowd in self.held.values() for each in crowd)


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
