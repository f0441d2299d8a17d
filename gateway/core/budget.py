"""How much a level lets a statement and a session take away. None is no limit."""

from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Room:
    """`rows` and `bytes` from the target to the person, of whatever may hold data; `time` while the target works."""

    rows: int | None = None
    bytes: int | None = None
    time: timedelta | None = None

    def is_limited(self) -> bool:
        """True when anything is."""
        return (self.rows, self.bytes, self.time) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one statement may, and what all of a session may together."""

    statement: Room = field(default_factory=Room)
    session: Room = field(default_factory=Room)

    def is_set(self) -> bool:
        """True when anything is limited."""
        return self.statement.is_limited() or self.session.is_limited()
