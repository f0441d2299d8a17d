"""Dry-run: which of a transaction's writes a ROLLBACK TO undoes.

Savepoints are not in the list of what was written, and several may have one name: who says yes could not tell.
"""

from collections.abc import Collection

from gateway.core.dry_run_text import Does, Step

_MOST = 10_000  # savepoints of a transaction


class Points:
    """The savepoints of one transaction, each with how much was written before it."""

    def __init__(self) -> None:
        self._known: list[tuple[str, int]] = []
        self._is_sure = True
        self._has_turned = False  # in this round

    def undone(self, name: str, count: int) -> bytes:
        """What to say in front of ROLLBACK TO, behind so many writes."""
        first = next((before + 1 for each, before in reversed(self._known) if each == name), 0)
        if not self._is_sure or not first:
            return b"(undoes what is not known here) "
        return f"(undoes {first} to {count}) ".encode() if first <= count else b"(undoes nothing) "

    def go_on(self, steps: Collection[Step], count: int) -> None:
        """One of these is being executed, behind so many writes."""
        if not any(step.point for step in steps):
            return
        self._has_turned = True
        first, *others = steps
        may_be_others = any(each._replace(sql=first.sql) != first for each in others)
        if len(self._known) >= _MOST or may_be_others:
            self._known.clear()
            self._is_sure = False
        elif first.does is Does.READ and not first.releases:
            self._known.append((first.point, count))
        else:
            places = [place for place, (each, _) in enumerate(self._known) if each == first.point]
            del self._known[places[-1] + (not first.releases) if places else len(self._known) :]

    def end_round(self, *, is_open: bool, has_failed: bool) -> None:
        """Of one that has failed nobody knows what of it was executed."""
        self._is_sure &= not (has_failed and self._has_turned)
        self._has_turned = False
        if not is_open:
            self.clear()

    def clear(self) -> None:
        """The transaction is over."""
        self._known.clear()
        self._is_sure = True
