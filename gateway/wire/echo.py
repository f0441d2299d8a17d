"""Which typed lines a terminal echoed. What it did not echo may be a password, and nobody may keep it.

A line counts as echoed when every octet of it came back, in order, as the next thing that the terminal showed; one
octet that did not, an editing key, or output in between, and the whole line is not. So a line is missed now and then
(its echo is in the output all the same), but a password would have to be shown in full to be kept.
"""

import re

LONGEST_LINE = 4_096
_ENDS = b"\r\n"
_DRAWING = re.compile(rb"(?:\x1b\[[0-9;?]*[A-Za-z])+")  # colours around an echo


class EchoedLines:
    """Fed with what is typed and what is shown. Not safe for threads."""

    def __init__(self) -> None:
        self._typed = bytearray()
        self._echoed = 0
        self._spoilt = False  # until the end of the line that is being typed

    def typed(self, octets: bytes | bytearray) -> list[bytes]:
        """The person's keys, before the target sees them. Lines that are complete now, without their ends."""
        for octet in octets:
            if octet in _ENDS:
                if not self._spoilt:
                    self._typed.append(octet)
                self._spoilt = False
            elif octet < 0x20 or octet == 0x7F or len(self._typed) >= LONGEST_LINE:
                self._spoil()
                self._spoilt = True
            elif not self._spoilt:
                self._typed.append(octet)
        return self._take()

    def shown(self, octets: bytes | bytearray) -> list[bytes]:
        """What the target sent to the terminal. Lines that are complete now."""
        at, lines = 0, []
        while self._typed and at < len(octets):
            if drawing := _DRAWING.match(octets, at):
                at = drawing.end()
            elif self._echoed < len(self._typed) and octets[at] == self._typed[self._echoed]:
                self._echoed += 1
                at += 1
                lines += self._take()
            else:
                self._spoil()
                break
        return lines

    def _take(self) -> list[bytes]:
        """Lines of which everything before the end was echoed."""
        lines = []
        while self._echoed < len(self._typed) and self._typed[self._echoed] in _ENDS:
            if self._echoed:
                lines.append(bytes(self._typed[: self._echoed]))
            del self._typed[: self._echoed + 1]
            self._echoed = 0
        return lines

    def _spoil(self) -> None:
        """The line that is waiting for its echo is not kept, nor what was typed ahead after it."""
        self._spoilt = not self._typed.endswith((b"\r", b"\n"))
        self._typed.clear()
        self._echoed = 0
