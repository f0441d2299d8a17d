"""A run as JSON lines, while it happens: what it says, and a sign of life every few seconds of silence.

Whoever reads slowly is not waited for (see `app.deploy_live`); whoever goes away leaves the run as it is, unless its
verb says otherwise.
"""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from time import monotonic

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.app.deploy_live import Feed
from gateway.app.deploy_ports import Output
from gateway.app.run_deploy import end_told, step_told
from gateway.core.rollout import Run, Step

NDJSON = "application/x-ndjson"
SILENCE_S = 5.0
LOOK_EVERY_S = 1.0
_STREAMS = {"out": "stdout", "err": "stderr"}


class Lines:
    """Pieces of output as JSON lines. Characters that are cut in two by a piece's end are put together again."""

    def __init__(self) -> None:
        self._decoders: dict[tuple[str, str], codecs.IncrementalDecoder] = {}

    def of(self, piece: Output) -> bytes:
        """One line."""
        head = {"type": piece.kind, "at": piece.at.isoformat(), **({"target": piece.target} if piece.target else {})}
        if piece.kind in _STREAMS:
            decoder = self._decoders.setdefault(
                (piece.target, piece.kind), codecs.getincrementaldecoder("utf-8")("replace")
            )
            head |= {"type": "output", "stream": _STREAMS[piece.kind]}
            return line(head, {"text": decoder.decode(piece.data)})
        return line(head, piece.facts)


def line(*parts: Mapping[str, object]) -> bytes:
    """One JSON object on one line."""
    return json.dumps({key: value for part in parts for key, value in part.items()}).encode() + b"\n"


class RunLines(StreamingResponse):
    """The answer that streams a run. `when_gone` is called when nobody reads any more, also before the first line."""

    def __init__(self, lines: AsyncIterator[bytes], when_gone: Callable[[], None] = lambda: None) -> None:
        super().__init__(lines, media_type=NDJSON, headers={"x-accel-buffering": "no"})
        self._when_gone = when_gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._when_gone()


async def follow(feed: Feed) -> AsyncIterator[bytes]:
    """Everything that the run says until its end."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(changed.set)

    silent = feed.listen(wake)
    lines, number, began, is_over = Lines(), 0, monotonic(), False
    try:
        while not is_over:
            changed.clear()
            pieces, number, missed, is_over = feed.since(number)
            if missed:
                yield line({"type": "note", "text": f"{missed} pieces of output were too old to keep"})
            for piece in pieces:
                yield lines.of(piece)
            if not is_over:
                try:
                    await asyncio.wait_for(changed.wait(), SILENCE_S)
                except TimeoutError:
                    yield line({"type": "progress", "seconds": round(monotonic() - began)})
    finally:
        silent()


async def look(read: Callable[[], tuple[Run, Sequence[Step]]]) -> AsyncIterator[bytes]:
    """A run that is over, or another gateway's: its steps as they are stored, until its end. Without its output."""
    told: dict[str, str] = {}
    began = monotonic()
    said_at = began
    while True:
        run, steps = await asyncio.to_thread(read)
        if not told:
            yield line({"type": "run", "run": run.id, "verb": run.verb, "targets": list(run.targets), "repeated": True})
        for step in steps:
            if told.get(step.target) != step.state.value:
                told[step.target] = step.state.value
                yield line({"type": "step", "target": step.target, **step_told(step), "of": len(steps)})
        if run.is_over():
            yield line({"type": "end", **end_told(run)})
            return
        if monotonic() - said_at >= SILENCE_S:
            said_at = monotonic()
            yield line({"type": "progress", "seconds": round(said_at - began)})
        await asyncio.sleep(LOOK_EVERY_S)
