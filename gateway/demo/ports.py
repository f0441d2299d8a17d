"""The stage's loopback ports: chosen once and kept, so that printed commands stay right the next day."""

import json
import random
import socket
from contextlib import suppress
from itertools import islice
from pathlib import Path

from gateway.demo.processes import StageError

NAMES = ("api", "ssh", "postgres", "idp", "orders_db", "web_1", "web_2", "pager", "ci")
_LOWEST = 20_000  # below are ports that browsers refuse


def choose(state: Path, base: int | None) -> dict[str, int]:
    """A port for each name: `base`, `base`+1, … or the ones of the last run or, the first time, any free ones."""
    kept = state / "ports.json"
    ports = {name: base + i for i, name in enumerate(NAMES)} if base else _kept(kept)
    # All anew or none: the provider's address is part of everybody's identity, so it may not change alone.
    ports = ports or dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    taken = [str(port) for port in ports.values() if not _is_free(port)]
    if taken:
        raise StageError(
            f"port {', '.join(taken)} is taken; stop what listens there, or choose others: gw demo --port-base 18400"
        )
    kept.write_text(json.dumps(ports))
    return ports


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody uses just now, and that no outgoing connection will be given.

    What the system names when asked for any port is one of those that it gives to outgoing connections: until a server
    that starts slowly listens there, somebody's connection may have it.
    """
    first, last = _outgoing()
    every = range(_LOWEST, 65_536)
    others = [port for port in every if not first <= port <= last] or list(every)
    random.shuffle(others)
    return list(islice(filter(_is_free, others), count))


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def _outgoing() -> tuple[int, int]:
    """The ports of outgoing connections, first and last (ip(7), ip_local_port_range)."""
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return 32_768, 65_535
    return first, last


def _kept(path: Path) -> dict[str, int]:
    with suppress(OSError, ValueError):
        ports = json.loads(path.read_text())
        if isinstance(ports, dict) and set(ports) == set(NAMES):
            return {str(name): int(port) for name, port in ports.items()}
    return {}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
