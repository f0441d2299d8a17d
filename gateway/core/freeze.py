"""Freezes: windows in which verbs are refused, declared with a name, an author and a reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from gateway.core.window import Window


@dataclass(frozen=True, slots=True)
class Freeze:
    """Empty sets mean all. `by` is whom to ask."""

    name: str
    window: Window
    by: str
    reason: str
    services: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()

    def covers(self, service: str, environment: str, verb: str, at: datetime) -> bool:
        """True when the verb is refused on targets of that service and environment at `at`."""
        return (
            self.window.contains(at)
            and (not self.services or service in self.services)
            and (not self.environments or environment in self.environments)
            and (not self.verbs or verb in self.verbs)
        )

    def sentence(self) -> str:
        """Who has frozen it, until when and why."""
        until = self.window.not_after.strftime("%Y-%m-%d %H:%M UTC")
        return f"{self.name} is in force until {until}: {self.reason} ({self.by})."


def in_force(freezes: Iterable[Freeze], service: str, environment: str, verb: str, at: datetime) -> tuple[Freeze, ...]:
    """The freezes that cover it, the one that lasts longest first."""
    found = [freeze for freeze in freezes if freeze.covers(service, environment, verb, at)]
    return tuple(sorted(found, key=lambda freeze: freeze.window.not_after, reverse=True))
