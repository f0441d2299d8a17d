"""Live views as server-sent events: each waits for frames on a thread of their own pool, never on the API's."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.audit.recording import Frame
from gateway.audit.recording_json import frame_to_json
from gateway.core.errors import GatewayError, Refusal, Unavailable

MOST_PER_PERSON = 4
MOST_IN_ALL = 32
TOO_MANY_VIEWS = "too-many-views"
_OVER = object()
_YOURS = Refusal(
    TOO_MANY_VIEWS,
    f"You have {MOST_PER_PERSON} live views open already.",
    next_steps=("Close one, then watch again.",),
)
_ALL = Refusal(
    TOO_MANY_VIEWS,
    f"All {MOST_IN_ALL} live views of this gateway are in use.",
    next_steps=("Try again in a moment, or replay the session when it is over.",),
)


class LiveViews:
    """The places for live views in this process. Thread-safe."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MOST_IN_ALL, "gw-watch")
        self._lock = Lock()
        self._taken: Counter[str] = Counter()

    def open(self, person: str, watch: Callable[[], Iterator[Frame | None]]) -> "LiveView":
        """The answer that streams what `watch()` gives; Unavailable (429) when there is no place for `person`."""
        self._take(person)
        try:
            return LiveView(self._pool, watch(), lambda: self._give_back(person))
        except BaseException:
            self._give_back(person)
            raise

    def _take(self, person: str) -> None:
        with self._lock:
            if self._taken[person] >= MOST_PER_PERSON:
                raise Unavailable(_YOURS)
            if self._taken.total() >= MOST_IN_ALL:
                raise Unavailable(_ALL)
            self._taken[person] += 1

    def _give_back(self, person: str) -> None:
        with self._lock:
            self._taken[person] -= 1
            self._taken += Counter()  # drops zeros, so that it does not grow with everybody who ever looked


class LiveView(StreamingResponse):
    """One view; its place is given back when no thread waits for its frames any more, whoever ended it."""

    def __init__(self, pool: ThreadPoolExecutor, frames: Iterator[Frame | None], give_back: Callable[[], None]) -> None:
        super().__init__(self._events(), media_type="text/event-stream")
        self._pool = pool
        self._frames = frames
        self._give_back = give_back
        self._waiting: Future[object] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream; a client that leaves before the first frame gives its place back too."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._waiting is None:
                self._give_back()
            else:
                self._waiting.add_done_callback(lambda _: self._give_back())  # at once when it is done already

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            while (frame := await self._next()) is not _OVER:
                if isinstance(frame, Frame):
                    yield f"data: {json.dumps(frame_to_json(frame))}\n\n".encode()
                else:  # a comment keeps the connection alive and finds out whether anybody still listens
                    yield b": still here\n\n"
        except GatewayError as no:  # the right to watch ended; the status of the answer is long gone
            told = {"code": no.refusal.code, "detail": no.refusal.sentence()}
            yield f"event: denied\ndata: {json.dumps(told)}\n\n".encode()
        else:
            yield b"event: end\ndata: {}\n\n"

    async def _next(self) -> object:
        self._waiting = self._pool.submit(next, self._frames, _OVER)
        return await asyncio.wrap_future(self._waiting)
