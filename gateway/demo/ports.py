"""The stage's loopback ports: chosen once and kept, so that printed commands stay right the next day."""

import json
import socket
from contextlib import suppress
from pathlib import Path

from gateway.demo.processes import StageError, free_port

NAMES = ("api", "ssh", "postgres", "idp", "orders_db", "web_1", "web_2", "pager", "ci")


def choose(state: Path, base: int | None) -> dict[str, int]:
    """A port for each name: `base`, `base`+1, … or the ones of the last run or, the first time, any free ones."""
    kept = state / "ports.json"
    ports = {name: base + i for i, name in enumerate(NAMES)} if base else _kept(kept)
    # All anew or none: the provider's address is part of everybody's identity, so it may not change alone.
    ports = ports or {name: free_port() for name in NAMES}
    taken = [str(port) for port in ports.values() if not _is_free(port)]
    if taken:
        raise StageError(
            f"port {', '.join(taken)} is taken; stop what listens there, or choose others: gw demo --port-base 18400"
        )
    kept.write_text(json.dumps(ports))
    return ports


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
