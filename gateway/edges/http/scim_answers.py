"""Answers and errors in SCIM's own shape (RFC 7644 §3.12)."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from scim2_models import Error

from gateway.core.errors import Refusal

_UNUSABLE = frozenset({
    "group-unusable", "group-too-large", "no-such-member", "name-unusable", "external-id-unusable",
})  # fmt: skip

_TOO_MANY = frozenset({"patch-too-large", "filter-too-long"})  # nothing that the client holds twice: no `uniqueness`


class ScimAnswer(JSONResponse):
    media_type = "application/scim+json"


def scim_problem(status: int, refusal: Refusal) -> ScimAnswer:
    """A refusal as a SCIM client reads it."""
    if refusal.code in _UNUSABLE:
        return scim_error(Error(status=400, scim_type="invalidValue", detail=refusal.sentence()))
    if refusal.code in _TOO_MANY:
        return scim_error(Error(status=400, scim_type="tooMany", detail=refusal.sentence()))
    kind = "uniqueness" if status == HTTPStatus.CONFLICT else None
    return scim_error(Error(status=int(status), scim_type=kind, detail=refusal.sentence()))


def scim_flaws(flaws: Sequence[Any]) -> ScimAnswer:
    """What is wrong with a payload, in pydantic's words without the value, which may be a password."""
    told = Error.from_validation_error(flaws[0]) if flaws else Error(status=400, detail="not valid")
    return scim_error(Error(status=told.status or 400, scim_type=told.scim_type, detail=(told.detail or "")[:300]))


def scim_error(error: Error) -> ScimAnswer:
    """Sent with its own status."""
    status = error.status or HTTPStatus.BAD_REQUEST
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return ScimAnswer(error.model_dump(), status, headers)
