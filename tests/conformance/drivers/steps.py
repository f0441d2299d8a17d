"""What every Python driver's script has in common: features are tried one by one, each tells how it went on a line of its own.

Environment: DRIVER_HOST, DRIVER_PORT, DRIVER_USER, DRIVER_PASSWORD, DRIVER_DATABASE, DRIVER_CA. A line is `ok FEATURE`
or `FAILED FEATURE: why`. The database has a table `orders (id int, note text)` with 2,000 rows.

DRIVER_LEVEL is empty, `masked` (of `people (id int, email text, city text)`, 2,000 rows, the e-mail is shown as
`****mple`) or `dry-run`. There the first COMMIT is held, and the next one of the same goes through if all was
written into `yes_notes (n int, note text)`; what was written into `no_notes` has been refused then.
"""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable

HOST, PORT = os.environ["DRIVER_HOST"], int(os.environ["DRIVER_PORT"])
USER, PASSWORD = os.environ["DRIVER_USER"], os.environ["DRIVER_PASSWORD"]
DATABASE, CA = os.environ["DRIVER_DATABASE"], os.environ["DRIVER_CA"]
LEVEL = os.environ.get("DRIVER_LEVEL", "")
HELD, REFUSED, SHOWN = "55000", "42501", "****mple"
WITHIN_S = 30

Step = Callable[[], Awaitable[None]]


def tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CA)


async def sqlstate_of(failing: Awaitable[object]) -> str:
    """The code that it fails with; "" when it does not fail."""
    try:
        await failing
    except Exception as why:  # noqa: BLE001 - each driver has a family of its own
        return str(getattr(why, "sqlstate", None) or getattr(getattr(why, "orig", None), "sqlstate", None) or why)
    return ""


async def run(steps: dict[str, Step], masked: dict[str, Step], dry_run: dict[str, Step]) -> None:
    """Those of the level. Each has its connections to itself, so that one that fails spoils no other."""
    for feature, step in {"": steps, "masked": masked, "dry-run": dry_run}[LEVEL].items():
        try:
            await asyncio.wait_for(step(), WITHIN_S)
        except Exception as why:  # noqa: BLE001 - one line for each feature, whatever happens
            print(f"FAILED {feature}: {type(why).__name__}: {why}".replace("\n", " "), flush=True)
        else:
            print(f"ok {feature}", flush=True)
