"""The demo people's passkeys: in files of the stage, so that everything can be tried without a security key."""

import json
import re
from html import unescape
from pathlib import Path

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.demo.browser import Browser, open_as
from gateway.demo.passkey import SoftPasskey, bytes_of, text_of
from gateway.demo.postgres import write_secret
from gateway.demo.processes import StageError

_CSRF = re.compile(r'data-csrf="([^"]*)"')


def register(api: str, issuer: str, state: Path, account: str) -> None:
    """Give an account a passkey, unless it has one from an earlier start: sign in freshly, then as the page does."""
    if _file(state, account).exists():
        return
    with Browser(base_url=api) as browser:
        page = open_as(browser, f"{api}/login?fresh=yes&next=/passkeys", account, issuer)
        found = _CSRF.search(page.text)
        if found is None:
            raise StageError(f"the gateway lets {account} add no passkey ({page.status_code})")
        csrf = unescape(found[1])
        key = SoftPasskey(api)
        options = browser.post("/api/passkeys/begin", json={"csrf": csrf}).raise_for_status().json()
        answer = {"csrf": csrf, "name": "demo", "credential": key.create(options)}
        browser.post("/api/passkeys/finish", json=answer).raise_for_status()
    _keep(state, account, key)


def answer(state: Path, code: str, account: str) -> None:
    """Answer a waiting `gw step-up` or `gw login --passkey` with an account's passkey, in place of a person."""
    try:
        api = str(json.loads((state / "stage.json").read_text())["api"])
        key = _kept(state, account, api)
    except (OSError, ValueError):
        raise StageError(f"no demo is running in {state}; start it with: make demo") from None
    with Browser(base_url=api) as browser:
        for what in ("step-up", "emergency"):
            begun = browser.post(f"/api/{what}/begin", json={"code": code})
            if begun.status_code == 404:
                continue
            done = begun
            if begun.is_success:
                done = browser.post(f"/api/{what}/finish", json={"code": code, "credential": key.get(begun.json())})
                _keep(state, account, key)
            if not done.is_success:
                raise StageError(str(done.json().get("detail", done.status_code)))
            return
    raise StageError("No terminal waits under that code.")


def _file(state: Path, account: str) -> Path:
    return state / "secrets" / f"{account}.passkey.json"


def _keep(state: Path, account: str, key: SoftPasskey) -> None:
    private = key.key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    kept = {"id": text_of(key.credential_id), "user": key.user_handle, "count": key.count, "key": private.decode()}
    write_secret(_file(state, account), json.dumps(kept))


def _kept(state: Path, account: str, api: str) -> SoftPasskey:
    kept = json.loads(_file(state, account).read_text())
    key = form.load_pem_private_key(kept["key"].encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StageError(f"{_file(state, account)} is not a key of this demo")
    return SoftPasskey(api, user_handle=kept["user"], count=kept["count"], credential_id=bytes_of(kept["id"]), key=key)
