"""Coming in while the identity provider is down: good for breaking the glass, and for nothing else."""

from dataclasses import dataclass
from datetime import timedelta

from gateway.core.errors import Refusal
from gateway.core.obligation import Obligations, Record
from gateway.core.principal import User


@dataclass(frozen=True, slots=True)
class BreakGlassOnly:
    """A person who proved by passkey who they are, while nobody could ask their provider.

    Deliberately not a `User`: whatever takes a user does not take this, so a new use case refuses it until somebody
    decides otherwise.
    """

    user: User


# What such access owes, whatever policy says besides; strictest wins.
DUTIES = Obligations(
    max_duration=timedelta(hours=1), review=True, record=Record.REQUIRE, notify=frozenset({"break-glass"})
)
REFUSAL = Refusal(
    "break-glass-only",
    "You came in by passkey while the identity provider was down: that is good for breaking the glass, and no more.",
    ("a sign-in at the identity provider",),
    (
        "In an emergency: gw break-glass TARGET …, or gw deploy rollback … --override",
        "Once the provider answers again: gw login",
    ),
)
