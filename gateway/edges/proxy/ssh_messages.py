"""What the two ends of a channel and their transports hand to each other (RFC 4254 §5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paramiko import Message

MAX_PACKET = 32_768
BURST = 8 * MAX_PACKET  # handed on at once: large enough that threads seldom change, small enough for keystrokes

# Message numbers (RFC 4254 §9), also the kinds of inbox items.
DATA, EXTENDED_DATA, EOF, CLOSE, REQUEST, SUCCESS, FAILURE = 94, 95, 96, 97, 98, 99, 100
WINDOW_ADJUST = 93
Octets = bytes | bytearray | memoryview
LOST = 0  # the connection is gone
NOTE = 1  # a sentence of the gateway's own for the person
LEFT = 2  # data that `carry` has recorded, and could not send without waiting


@dataclass(slots=True)
class Item:
    """One message. `octets` is the data or the request's own fields; `name` and `wants_reply` of a request.

    Of LEFT, `owed` is how much the peer may send again once the octets have gone, to stderr if `stderr`.
    """

    kind: int
    octets: bytes | bytearray | memoryview = b""
    name: str = ""
    wants_reply: bool = False
    owed: int = 0
    stderr: bool = False


class RawMessage(Message):
    """A message that is encoded already: spares a copy."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def asbytes(self) -> bytes:
        """The octets to send."""
        return self._encoded


class Sender(Protocol):
    """What a channel needs of its transport. Raises EOFError, OSError or SSHException when the connection is gone."""

    def post(self, encoded: bytes) -> None:
        """Send a message; waits while keys are being exchanged or the peer does not read. Not for its own thread."""
        ...

    def post_data(self, head: bytes, data: bytes | bytearray | memoryview, packet: int) -> None:
        """Send data in messages of `head`, a length and at most `packet` octets; waits as `post`."""
        ...

    def post_now(self, encoded: bytes) -> bool:
        """As `post`, without waiting and for any thread; False when nothing was sent because it would have to wait."""
        ...

    def post_data_now(self, head: bytes, pieces: Sequence[Octets]) -> bool:
        """As `post_now`, each piece a message of its own. What the socket does not take is kept for `flush`."""
        ...

    def be_prompt(self) -> None:
        """The channel has a terminal: streams of other connections make way for this one."""
        ...

    def read_soon(self) -> None:
        """Read what the peer sends without lingering: somebody waits for it, or soon will."""
        ...

    def flush(self) -> None:
        """Wait until what `post_now` and `post_data_now` sent has gone."""
        ...

    def is_flushed(self) -> bool:
        """True when all that was sent has gone."""
        ...

    def forget_channel(self, number: int) -> None:
        """The channel's number is free again."""
        ...


def joined_data(items: list[Item]) -> list[Item]:
    """The same with neighbouring data of one kind joined, up to BURST: one record and one write for many packets."""
    done: list[Item] = []
    run: list[Octets] = []
    kind = size = 0
    for item in items:
        if run and (item.kind != kind or size + len(item.octets) > BURST):
            done.append(Item(kind, run[0] if len(run) == 1 else b"".join(run)))
            run = []
        if item.kind in (DATA, EXTENDED_DATA):
            kind, size = item.kind, len(item.octets) + (size if run else 0)
            run.append(item.octets)
        else:
            done.append(item)
    if run:
        done.append(Item(kind, run[0] if len(run) == 1 else b"".join(run)))
    return done
