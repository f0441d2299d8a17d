"""The demo's four people, signed in by the real device flow: the gateway cannot tell them from others."""

import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

import httpx2

from gateway.demo import keys
from gateway.demo.browser import confirm_as
from gateway.demo.idp import GROUPS
from gateway.demo.postgres import write_secret
from gateway.demo.processes import StageError
from gateway.edges.cli.device import DeviceKey
from gateway.edges.cli.device import headers as device_headers

_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_WITHIN_S = 20.0


def sign_in_all(api: str, issuer: str, state: Path) -> dict[str, dict[str, str]]:
    """Environment variables per account with which every `gw` command acts as that account."""
    accounts: dict[str, dict[str, str]] = {}
    for name in GROUPS:
        home = state / "accounts" / name
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        accounts[name] = {
            "GW_URL": api,
            "GW_HOME": str(home.absolute()),
            "GW_TOKEN": _sign_in(api, issuer, name, home),
            "GW_KEYRING": "off",  # a demo's token is nothing for somebody's keyring
        }
        write_secret(env_file(state, name), _as_shell(accounts[name]))
        keys.register(api, issuer, state, name)
    return accounts


def env_file(state: Path, name: str) -> Path:
    """A shell file that exports an account's environment."""
    return state / f"{name}.env"


def confirm(state: Path, user_code: str, account: str) -> None:
    """Confirm a waiting `gw login` as one of the accounts, in place of a person with a browser."""
    try:
        stage = json.loads((state / "stage.json").read_text())
    except (OSError, ValueError):
        raise StageError(f"no demo is running in {state}; start it with: make demo") from None
    confirm_as(stage["api"], user_code, account, stage["issuer"])


def _as_shell(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _sign_in(api: str, issuer: str, account: str, home: Path) -> str:
    key = DeviceKey.new()

    def prove(request: httpx2.Request) -> None:
        request.headers.update(device_headers(key, request.method, str(request.url), ""))

    write_secret(home / "device.key", key.seed)
    with httpx2.Client(base_url=api, timeout=10, trust_env=False, event_hooks={"request": [prove]}) as client:
        begun = client.post("/api/device/code").raise_for_status().json()
        confirm_as(api, begun["user_code"], account, issuer)
        form = {"grant_type": _DEVICE_GRANT, "device_code": begun["device_code"]}
        end = time.monotonic() + _WITHIN_S
        while time.monotonic() < end:
            answer = client.post("/api/device/token", data=form).json()
            if "access_token" in answer:
                return str(answer["access_token"])
            if answer.get("error") not in ("authorization_pending", "slow_down"):
                raise StageError(f"{account} could not sign in: {answer.get('error')}")
            time.sleep(begun["interval"])
    raise StageError(f"{account} could not sign in within {_WITHIN_S:.0f} s")
