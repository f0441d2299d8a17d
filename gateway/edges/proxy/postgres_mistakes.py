"""A mistake of ours while a session is judged, masked or counted: it ends, with a reason and a sentence."""

import logging
from collections.abc import Callable
from functools import wraps
from traceback import extract_tb
from typing import Concatenate, ParamSpec, TypeVar

from gateway.core.session import EndReason
from gateway.edges.proxy.postgres_relay import PostgresSession

LOG = logging.getLogger(__name__)
_S = TypeVar("_S", bound=PostgresSession)
_P = ParamSpec("_P")


def end_for_mistake(session: PostgresSession, fault: Exception) -> None:
    """The log says where, and not its text, which may hold what somebody sent."""
    where = extract_tb(fault.__traceback__)[-1]
    LOG.error("a session was closed: %s in %s, line %s", type(fault).__name__, where.name, where.lineno)
    session.end(EndReason.GATEWAY_FAULT)


def mistakes_end_it(method: Callable[Concatenate[_S, _P], None]) -> Callable[Concatenate[_S, _P], None]:
    """For what the loop calls: nobody above would tell the person, nor end the session."""

    @wraps(method)
    def guarded(session: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(session, *args, **kwargs)
        except Exception as fault:  # noqa: BLE001 - whatever it is, nothing goes on behind it
            end_for_mistake(session, fault)

    return guarded
