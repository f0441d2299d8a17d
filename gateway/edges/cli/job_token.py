"""Inside a CI job: the job's own OIDC token, exchanged for a deploy token. Neither is ever printed or in argv.

GitHub Actions: `ACTIONS_ID_TOKEN_REQUEST_URL` and `ACTIONS_ID_TOKEN_REQUEST_TOKEN` (`permissions: id-token: write`).
Elsewhere: `GW_ID_TOKEN`, as GitLab's `id_tokens:` makes it.
"""

import os
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from gateway.edges.cli import client, output, plain_http

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1
_JWT = "urn:ietf:params:oauth:token-type:jwt"
_EXPLAIN = "gw trust explain says which claim of the job's token did not fit."
_FORM = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}


def is_job() -> bool:
    """True where a job's token can be had."""
    return bool(os.environ.get("GW_ID_TOKEN") or os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"))


def deploy_token(url: str) -> str:
    """A deploy token for the gateway at `url`."""
    form = {"grant_type": _EXCHANGE, "subject_token": _job_token(url), "subject_token_type": _JWT, "audience": url}
    status, told = _called("POST", f"{url}/oauth/token", _FORM, urlencode(form).encode())
    if status == 200 and isinstance(told, dict) and isinstance(told.get("access_token"), str):
        return str(told["access_token"])
    if not isinstance(told, dict):
        told = {}
    said = str(told.get("error_description") or told.get("detail") or f"The gateway answered {status} to that token.")
    steps = told.get("next_steps")
    steps = steps if isinstance(steps, list) and steps else [_EXPLAIN]
    said = said.removesuffix(" ".join(map(str, steps))).rstrip() or said  # OAuth has one text for both
    raise output.Failure(
        said,
        output.EXIT_DENIED if status in (400, 401, 403) else output.EXIT_ERROR,
        {"code": str(told.get("code") or told.get("error") or "exchange-failed"), "detail": said, "next_steps": steps},
    )


def _job_token(audience: str) -> str:
    if token := os.environ.get("GW_ID_TOKEN"):
        return token
    asked, bearer = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL", ""), os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not bearer:
        output.fail("This job may not ask for an identity.", output.EXIT_DENIED, "permissions: {id-token: write}")
    _must_be_safe(asked)
    joint = "&" if urlsplit(asked).query else "?"
    headers = {"authorization": f"Bearer {bearer}", "accept": "application/json"}
    status, told = _called("GET", f"{asked}{joint}audience={quote(audience, safe='')}", headers)
    if status != 200 or not isinstance(told, dict) or not isinstance(told.get("value"), str):
        output.fail(f"The CI provider gave this job no identity (it answered {status}).", output.EXIT_ERROR)
    return str(told["value"])


def _must_be_safe(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not client.is_loopback(parts.hostname or ""):
        output.fail("ACTIONS_ID_TOKEN_REQUEST_URL is not https.", output.EXIT_USAGE)


def _called(method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, Any]:
    try:
        with plain_http.requested(method, url, headers, body) as answer:
            return answer.status, plain_http.whole(answer)
    except plain_http.UnreachableError as why:
        output.fail(f"{why}.", output.EXIT_ERROR, "Try again in a moment.", code="unreachable")
