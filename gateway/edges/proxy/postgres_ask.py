"""A question of the gateway's own on a session with a target, before anybody else speaks on it."""

import asyncio

from gateway.edges.proxy.postgres_leg import Leg, LegClosed
from gateway.wire import postgres_messages as pg
from gateway.wire.buffer import Buffer, ProtocolViolation

ANSWER_S = 10.0


class AskFailed(Exception):
    """No answer came. `said` is what the server said against it, "" when it said nothing."""

    def __init__(self, said: str = "") -> None:
        super().__init__(said or "a statement got no answer")
        self.said = said


async def ask(leg: Leg, sql: str, most: int) -> bytes:
    """Every message up to ReadyForQuery, at most so many bytes; AskFailed."""
    leg.write(pg.message(b"Q", sql.encode() + b"\0"))
    buffer, whole = Buffer(most), bytearray()
    try:
        async with asyncio.timeout(ANSWER_S):
            while True:
                buffer.feed(await leg.read())
                while (head := buffer.peek(5)) is not None:
                    kind, length = pg.HEADER.unpack(head)
                    packet = buffer.take(length + 1) if 4 <= length < most else None
                    if packet is None:
                        break
                    if kind == ord("E"):
                        raise AskFailed(pg.parse_fields(packet[5:]).get("M", "it gave no reason")[:500])
                    if kind == ord("Z"):
                        return bytes(whole)
                    whole += packet
                    if len(whole) > most:
                        raise AskFailed("its answer is too long")
    except (LegClosed, ProtocolViolation, TimeoutError) as why:
        raise AskFailed from why
