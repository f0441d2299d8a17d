"""The ends of a door's sessions, stored together: each alone would cost a transaction, and so a write to the disk."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gateway.app.end_session import Sealed

GATHER_S = 0.03  # sessions that end within this time share one transaction; nobody waits for it
MOST_AT_ONCE = 64
Store = Callable[[Sequence[Sealed]], Awaitable[None]]


class Endings:
    """Everything runs on the event loop; `store` is called with one batch at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Sealed, asyncio.Future[None]]] = []
        self._storing: asyncio.Task[None] | None = None

    async def add(self, sealed: Sealed) -> None:
        """Return once the session's end is stored, or kept for later by `store`; raises what that raises for it."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sealed, stored))
        if self._storing is None:
            self._storing = asyncio.create_task(self._store_all())
        await stored

    async def _store_all(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_S)
                batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                await self._store_batch(batch)
        finally:
            self._storing = None

    async def _store_batch(self, batch: Sequence[tuple[Sealed, asyncio.Future[None]]]) -> None:
        try:
            await self._store([sealed for sealed, _ in batch])
        except Exception as why:  # noqa: BLE001 - one session's bug is not the end of the others' ends
            if len(batch) > 1:
                for each in batch:
                    await self._store_batch([each])
                return
            _settle(batch[0][1], why)
            return
        for _, stored in batch:
            _settle(stored)


def _settle(stored: asyncio.Future[None], why: Exception | None = None) -> None:
    if stored.done():  # who waited for it was cancelled
        return
    if why is None:
        stored.set_result(None)
    else:
        stored.set_exception(why)
