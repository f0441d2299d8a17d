"""What holds a session to the masks of its level: statements judged by what they would show, answers masked."""

from collections import OrderedDict
from functools import partial

from gateway.app.statement_ports import StatementReader
from gateway.core.mask_rules import is_indirect, judge_masked
from gateway.core.masking import Known, Mask
from gateway.core.statement_rules import Broken
from gateway.wire.postgres_masks import Asked, AskToDescribe, CannotMask, Conceal, MaskedAnswers, concealing

_FIRST_OWN = 16_384  # object ids below are PostgreSQL's own (FirstNormalObjectId)
_KEPT = 500  # verdicts of a session
_KEPT_BYTES = 2_048  # of a text whose verdict is kept


class Masking:
    """Of one session. `asks` is fed what goes to the target, `answers` what comes from there."""

    def __init__(self, known: Known, key: bytes, reader: StatementReader) -> None:
        """`key` of the HMAC; secret."""
        asked = Asked()
        self.asks = AskToDescribe(asked)
        self.answers = MaskedAnswers(asked, self._origin, self._is_free)
        self._known = known
        self._conceal = partial(concealing, key=key)
        self._reader = reader
        self._judged: OrderedDict[bytes, Broken | None] = OrderedDict()

    def judge(self, sql: bytes) -> Broken | None:
        """Why a text would show too much; None lets it pass."""
        if sql in self._judged:
            return self._judged[sql]
        broken = judge_masked(self._reader.tree(sql), self._known)
        if len(sql) <= _KEPT_BYTES:
            self._judged[sql] = broken
            if len(self._judged) > _KEPT:
                self._judged.popitem(last=False)
        return broken

    def is_indirect(self, sql: bytes) -> bool:
        """True for FETCH and EXECUTE, of texts that `judge` lets pass."""
        words = sql.lower()
        return (b"fetch" in words or b"execute" in words) and is_indirect(self._reader.tree(sql))

    def _is_free(self, schema: str, table: str) -> bool:
        found = [r for r in self._known.by_name.get(table, ()) if r.schema == schema]
        return bool(found) and not any(r.masks or r.is_blocked for r in found)

    def _origin(self, table: int, attribute: int, type_oid: int) -> Conceal | None:
        if not table or table < _FIRST_OWN:
            return None
        relation = self._known.by_oid.get(table)
        if relation is None or relation.is_blocked:
            raise CannotMask("a table is not the one that it was when the session began")
        try:
            mask: Mask | None = relation.mask_of(attribute)
        except KeyError:
            raise CannotMask("a table has other columns than when the session began") from None
        return None if mask is None else self._conceal(mask.value, type_oid)
