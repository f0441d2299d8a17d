"""A mistake of ours while a session is judged, masked or counted: it ends, with a reason and a sentence."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from gateway.core.session import EndReason
from gateway.edges.proxy.postgres_books import log_where
from gateway.edges.proxy.postgres_relay import PostgresSession

_S = TypeVar("_S", bound=PostgresSession)
_P = ParamSpec("_P")


def end_for_mistake(session: PostgresSession, fault: Exception) -> None:
    """Whatever it is, nothing goes on behind it."""
    log_where("a session was closed", fault)
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
