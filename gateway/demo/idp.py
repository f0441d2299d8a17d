"""The demo's identity provider: `oidc-provider-mock` on loopback, with four people named after their role."""

import json
import os
import sys
from pathlib import Path

from gateway.demo.processes import Processes, listens

NAME = "identity provider"
CLIENT_ID = "gw"
GROUPS = {
    "oncall": ("engineers",),
    "developer": ("engineers",),
    "lead": ("leads",),
    "auditor": ("auditors",),
}


def start(processes: Processes, state: Path, port: int) -> str:
    """Start the provider; its issuer URL. It asks for no password: whoever reaches it is who they say."""
    claims = [f"--user-claims={json.dumps(_claims(name, groups))}" for name, groups in GROUPS.items()]
    argv = [
        sys.executable,
        "-m",
        "oidc_provider_mock",
        "--host=127.0.0.1",
        f"--port={port}",
        "--require-nonce=true",
        *claims,
    ]
    processes.start(NAME, argv, log=state / "log" / "idp.log", env={**os.environ, "NO_COLOR": "1"})
    processes.await_ready(NAME, lambda: listens("127.0.0.1", port), 30)
    return f"http://127.0.0.1:{port}"


def _claims(name: str, groups: tuple[str, ...]) -> dict[str, object]:
    return {
        "sub": name,
        "preferred_username": name,
        "name": name.title(),
        "email": f"{name}@example.com",
        "email_verified": True,
        "groups": list(groups),
    }
