"""A browser's part of a sign-in, by HTTP: for the demo's people, who confirm their terminal without a browser.

Knows the pages of the gateway and the form of the demo's identity provider (oidc-provider-mock), nothing else.
"""

import re
from html import unescape
from urllib.parse import urljoin

import httpx2

_FIELD = re.compile(r'<input type="hidden" name="(csrf|user_code)" value="([^"]*)"')
_TIMEOUT_S = 15.0
_MAX_STEPS = 10


def confirm_as(base_url: str, user_code: str, account: str, idp_url: str) -> None:
    """Confirm a device sign-in as `account` (a `sub` at the provider). RuntimeError when a page says no.

    `base_url` is the gateway's API, `idp_url` the provider's issuer; no other host is followed to.
    """
    with httpx2.Client(timeout=_TIMEOUT_S, trust_env=False) as browser:
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
