"""Take up changed rules; a broken file never replaces a working set, and is told once, loudly."""

import logging

from gateway.app import journal
from gateway.app.context import Context

LOG = logging.getLogger(__name__)


class Reloads:
    """Remembers what was told, so that a file that stays broken is one event and not one every other second."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._recorded: dict[str, str] = {}  # the digest in force that the log knows of

    def reload(self, ctx: Context) -> bool:
        """Try all; True when anything is newly in force."""
        before = self._in_force(ctx)
        for what, digest in before.items():
            self._recorded.setdefault(what, digest)
        why = {"policy": ctx.policy.reload(), "catalogue": ctx.catalogue.reload(), "trust": ctx.trust.reload()}
        after = self._in_force(ctx)
        for what, digest in after.items():
            self._record(ctx, what, digest)
            self._tell(ctx, what, why[what])
        return before != after

    @staticmethod
    def _in_force(ctx: Context) -> dict[str, str]:
        trust = ctx.trust.current().digest
        return {"policy": ctx.policy.digest(), "catalogue": ctx.catalogue.current().version, "trust": trust}

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
