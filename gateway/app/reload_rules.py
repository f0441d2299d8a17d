"""Take up changed rules; a broken file never replaces a working set, and is told once, loudly."""

import logging

from gateway.app import journal
from gateway.app.context import Context

LOG = logging.getLogger(__name__)


def rules_in_force(ctx: Context) -> dict[str, str]:
    """The digest of each set of rules that this process goes by."""
    trust = ctx.trust.current().digest
    return {"policy": ctx.policy.digest(), "catalogue": ctx.catalogue.current().version, "trust": trust}


def note_start(ctx: Context, settings: str, *, interrupted: int, interrupted_runs: int) -> None:
    """What this process goes by, at its start: rules that were changed while none ran are told of nowhere else.

    `settings` is their digest; the others are how many sessions and runs a crash had left open.
    """
    told = {"interrupted_sessions": interrupted, "interrupted_runs": interrupted_runs}
    journal.record(ctx, "gateway:started", data={**told, **rules_in_force(ctx), "settings": settings})


class Reloads:
    """Remembers what was told, so that a file that stays broken is one event and not one every other second."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._recorded: dict[str, str] = {}  # the digest in force that the log knows of

    def reload(self, ctx: Context) -> bool:
        """Try all; True when anything is newly in force."""
        before = rules_in_force(ctx)
        for what, digest in before.items():
            self._recorded.setdefault(what, digest)
        why = {"policy": ctx.policy.reload(), "catalogue": ctx.catalogue.reload(), "trust": ctx.trust.reload()}
        after = rules_in_force(ctx)
        for what, digest in after.items():
            self._record(ctx, what, digest)
            self._tell(ctx, what, why[what])
        return before != after

    def _record(self, ctx: Context, what: str, digest: str) -> None:
        old = self._recorded[what]
        if old != digest:
            journal.record(ctx, f"{what}:loaded", data={"digest": digest, "replaces": old})
            self._recorded[what] = digest  # after it is stored: what could not be stored is tried again

    def _tell(self, ctx: Context, what: str, why: str | None) -> None:
        if why is None:
            self._told.pop(what, None)
        elif why != self._told.get(what):
            LOG.error("%s not reloaded, the old one stays in force: %s", what, why)
            journal.record(ctx, f"{what}:rejected", "failed", {"message": why[:2000]})
            self._told[what] = why
