"""Take up changed policies and catalogue; a broken file never replaces a working set, and is told once, loudly."""

import logging

from gateway.app import journal
from gateway.app.context import Context

LOG = logging.getLogger(__name__)


class Reloads:
    """Remembers what was told, so that a file that stays broken is one event and not one every other second."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def reload(self, ctx: Context) -> bool:
        """Try both; True when anything is newly in force."""
        before = (ctx.policy.digest(), ctx.catalogue.current().version)
        self._tell(ctx, "policy", ctx.policy.reload())
        self._tell(ctx, "catalogue", ctx.catalogue.reload())
        after = (ctx.policy.digest(), ctx.catalogue.current().version)
        for what, old, new in zip(("policy", "catalogue"), before, after, strict=True):
            if old != new:
                journal.record(ctx, f"{what}:loaded", data={"digest": new, "replaces": old})
        return before != after

    def _tell(self, ctx: Context, what: str, why: str | None) -> None:
        if why == self._told.get(what):
            return
        if why is None:
            self._told.pop(what, None)
            return
        self._told[what] = why
        LOG.error("%s not reloaded, the old one stays in force: %s", what, why)
        journal.record(ctx, f"{what}:rejected", "failed", {"message": why[:2000]})
