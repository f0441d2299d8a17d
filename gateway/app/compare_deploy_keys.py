"""Gateways on one database must share their deploy key, which is a file of each: whoever starts with another says so.

Tokens of the one are worth nothing at the other, and nothing else would tell why. Refusing to start would keep out
somebody who has lost the old key, so the difference is an event and a line in the gateway's own log.
"""

import hashlib
import logging
from dataclasses import replace
from datetime import timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.people_ports import Credential

LOG = logging.getLogger(__name__)
_PURPOSE = "deploy-keys"
_FOR_EVER = timedelta(days=36500)  # a credential has an end


def compare_deploy_keys(ctx: Context) -> bool:
    """Leave the names of this gateway's keys in the store; False, with its event, when whoever started last had none
    of them. Unavailable when that cannot be stored.
    """
    mine = [_name_of(key) for key in ctx.deploy_keys.root_keys()]
    digest, at = digest_of(_PURPOSE), ctx.clock.now()
    with ctx.store.begin() as uow:
        known = uow.credentials.find(digest, _PURPOSE)
        before = (known.data or {}).get("keys", "").split() if known else []
        if known is None:
            uow.credentials.add(
                Credential(digest, _PURPOSE, _PURPOSE, at, at + _FOR_EVER, data={"keys": " ".join(mine)})
            )
        elif before != mine:
            uow.credentials.save(replace(known, data={"keys": " ".join(mine)}))
        is_shared = known is None or not set(before).isdisjoint(mine)
        if not is_shared:
            data = {"was": before, "now": mine, "gateway": ctx.gateway}
            journal.append(ctx, uow, "deploy-token:key-changed", data=data)
    if not is_shared:
        LOG.warning(
            "keys/deploy.key is not the one of the gateway that started last on this database: its deploy tokens are "
            "refused here, and ours there. Copy the file from another gateway unless it was replaced on purpose."
        )
    return is_shared


def _name_of(key: bytes) -> str:
    """Says which key it is and nothing about it: 256 random bits are not guessed from their digest."""
    return hashlib.sha256(b"gw deploy key name\n" + key).hexdigest()[:16]
