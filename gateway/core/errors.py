"""A "no" as a value. Rules return a `Refusal`; a use case turns it into `Denied` once; edges only render it.

Four kinds of exception and no more: `Denied` (policy or rule said no), `NotFound` (or not yours to see),
`Conflict` (right question, wrong moment), `Unavailable` (something we depend on failed; nothing was done).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, and what to do about it.

    `code` is a stable slug for scripts; `message` one sentence for a person; `missing` the facts that would
    have made it a yes; `next_steps` what to do meanwhile, each a sentence or a command.
    """

    code: str
    message: str
    missing: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Everything on one line, for protocols with room for a single message."""
        return " ".join((self.message, *self.next_steps))


class GatewayError(Exception):
    """Base of the expected errors. Carries a `Refusal`; its text never holds a secret."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Denied(GatewayError):
    """A rule or a policy said no."""


class NotFound(GatewayError):
    """No such thing, or not one that this principal may know of."""


class Conflict(GatewayError):
    """The thing exists but its state does not allow this (decided already, over, used)."""


class Unavailable(GatewayError):
    """A dependency failed or did not answer in time; no effect took place."""
