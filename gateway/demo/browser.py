"""A browser's part of a sign-in, by HTTP: for the demo's people, who confirm their terminal without a browser.

Knows the pages of the gateway and the form of the demo's identity provider (oidc-provider-mock), nothing else.
"""

import re
from html import unescape
from time import monotonic
from typing import Any
from urllib.parse import urljoin

import httpx2

from gateway.edges.cli.device import DeviceKey

PROVE = "/api/browser/prove"
_AT = re.compile(r'<html lang="en" data-at="(\d+)">')
_UNPROVEN = re.compile(r'id="prove" role="status" data-csrf="([^"]+)"')
_FIELD = re.compile(r'<input type="hidden" name="(csrf|user_code)" value="([^"]*)"')
_TIMEOUT_S = 15.0
_MAX_STEPS = 10


class ProvesPages:
    """In front of an HTTP client's class: what our pages' script does in a browser.

    A page that asks for a proof of the browser's key gets it and is opened again; a form or JSON with a page's token is
    proven, unless it brings a proof of its own.
    """

    browser: DeviceKey
    proven: Any = None  # the answer to the last proof of a page
    loaded: tuple[int, float] | None = None  # the gateway's time on the last page, and ours then

    def now(self) -> float | None:
        """Unix time that proofs are of: the gateway's, as the last page said it; None for this machine's."""
        return self.loaded[0] + monotonic() - self.loaded[1] if self.loaded else None

    def page_proof(self, method: str, url: str, csrf: str) -> str:
        """A proof for one request, by a page with that token."""
        return self.browser.proof(method, url, csrf, self.now())

    def get(self, url: Any, **more: Any) -> Any:
        """As the client's own; see above."""
        answer = super().get(url, **more)  # type: ignore[misc]
        if said := _AT.search(answer.text):
            self.loaded = int(said[1]), monotonic()
        asked = _UNPROVEN.search(answer.text) if answer.status_code == 401 else None
        if asked is None:
            return answer
        self.proven = self.post(str(answer.url.join(PROVE)), json={"csrf": asked[1]})
        return super().get(url, **more) if self.proven.status_code == 204 else self.proven  # type: ignore[misc]

    def post(self, url: Any, **more: Any) -> Any:
        """As the client's own; see above."""
        form, body, told = more.get("data"), more.get("json"), more.get("headers") or {}
        whole = urljoin(str(self.base_url), str(url))  # type: ignore[attr-defined]
        if isinstance(form, dict) and str(form.get("csrf", "ä")).isascii() and "proof" not in form:
            more["data"] = {**form, "proof": self.page_proof("POST", whole, form["csrf"])}
        if isinstance(body, dict) and str(body.get("csrf", "ä")).isascii() and "dpop" not in told:
            more["headers"] = {**told, "dpop": self.page_proof("POST", whole, str(body["csrf"]))}
        return super().post(url, **more)  # type: ignore[misc]


class Browser(ProvesPages, httpx2.Client):
    """A person's, with a key of its own. It follows no redirect by itself."""

    def __init__(self, **more: Any) -> None:
        super().__init__(timeout=_TIMEOUT_S, trust_env=False, **more)
        self.browser = DeviceKey.new()


def confirm_as(base_url: str, user_code: str, account: str, idp_url: str) -> None:
    """Confirm a device sign-in as `account` (a `sub` at the provider). RuntimeError when a page says no.

    `base_url` is the gateway's API, `idp_url` the provider's issuer; no other host is followed to.
    """
    with Browser() as browser:
        page = open_as(browser, f"{base_url}/device?user_code={user_code}", account, idp_url)
        fields = {name: unescape(value) for name, value in _FIELD.findall(page.text)}
        if page.status_code != 200 or "user_code" not in fields:
            raise RuntimeError(f"the gateway shows no terminal to confirm ({page.status_code})")
        done = browser.post(f"{base_url}/device", data={**fields, "action": "confirm"})
        if done.status_code != 200:
            raise RuntimeError(f"the gateway did not take the confirmation ({done.status_code})")


def open_as(browser: httpx2.Client, url: str, account: str, idp_url: str) -> httpx2.Response:
    """Open a page of the gateway, signing in as `account` at the provider when sent there."""
    answer = browser.get(url)
    for _ in range(_MAX_STEPS):
        if answer.is_redirect:
            answer = browser.get(urljoin(str(answer.url), answer.headers["location"]))
        elif str(answer.url).startswith(idp_url.rstrip("/") + "/"):
            answer = browser.post(str(answer.url), data={"sub": account})
        else:
            return answer
    raise RuntimeError("the sign-in goes round in circles")
