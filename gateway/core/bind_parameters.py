"""How much of the values that a statement is run with its record may hold: each level of a database decides."""

from enum import StrEnum


class BindParameters(StrEnum):
    """Text and results are recorded alike whatever this says; a value that stands in the text is part of the text."""

    FULL = "full"  # short values as they are, others by length and digest
    MASKED = "masked"  # lengths, and whether a value has come before in this session
    NONE = "none"  # how many there were

    def hides(self) -> bool:
        """True when there are values that no record may hold, in whatever form."""
        return self is not BindParameters.FULL
