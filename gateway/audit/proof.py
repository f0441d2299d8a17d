"""Receipts: C2SP tlog-proofs (https://c2sp.org/tlog-proof) whose `extra` line carries the event itself.

Such a file, the log's pinned key and this folder are all it takes to show that an event was logged.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.audit.checkpoint import MAX_NOTE, BadNoteError, Checkpoint, VerifierKey, open_checkpoint
from gateway.audit.leaf import MAX_LEAF, decode_event
from gateway.audit.merkle import HASH_SIZE, is_included, leaf_hash

HEADER: Final = "c2sp.org/tlog-proof@v1"
SUFFIX: Final = ".tlog-proof"
_MAX_HASHES: Final = 63
_MAX_RECEIPT: Final = MAX_LEAF * 2 + MAX_NOTE
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})")


class BadReceiptError(ValueError):
    """A receipt that proves nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The parts of a receipt, not yet verified. `checkpoint` is a signed note."""

    leaf: bytes
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Proved:
    """What a verified receipt shows: this leaf is number `index` under this checkpoint."""

    leaf: bytes
    event: dict[str, object]
    index: int
    checkpoint: Checkpoint


def build_receipt(leaf: bytes, index: int, hashes: Sequence[bytes], checkpoint: str) -> str:
    """The text of a receipt."""
    lines = [HEADER, f"extra {b64encode(leaf).decode()}", f"index {index}"]
    lines += [b64encode(step).decode() for step in hashes]
    return "\n".join(lines) + "\n\n" + checkpoint


def parse_receipt(text: str) -> Receipt:
    """Split a receipt; BadReceiptError when it is malformed or carries no event."""
    if len(text) > _MAX_RECEIPT:
        raise BadReceiptError("the receipt is too long")
    head, separator, checkpoint = text.partition("\n\n")
    header, *lines = head.split("\n")
    if not separator or header != HEADER or len(lines) < 2:
        raise BadReceiptError("this is not a receipt")
    extra, index, *hashes = lines
    number = _INDEX.fullmatch(index)
    if number is None or not extra.startswith("extra ") or len(hashes) > _MAX_HASHES:
        raise BadReceiptError("the receipt is malformed")
    steps = tuple(_unb64(step) for step in hashes)
    if any(len(step) != HASH_SIZE for step in steps):
        raise BadReceiptError("a hash in the receipt has the wrong length")
    return Receipt(_unb64(extra.removeprefix("extra ")), int(number[1]), steps, checkpoint)


def verify_receipt(text: str, log: VerifierKey) -> Proved:
    """What the receipt proves under the pinned key; BadReceiptError when it does not."""
    receipt = parse_receipt(text)
    try:
        checkpoint, _ = open_checkpoint(receipt.checkpoint, log)
        event = decode_event(receipt.leaf)
    except (BadNoteError, ValueError) as error:
        raise BadReceiptError(str(error)) from error
    if not is_included(leaf_hash(receipt.leaf), receipt.index, checkpoint.size, receipt.hashes, checkpoint.root):
        raise BadReceiptError("the event is not under the receipt's checkpoint")
    return Proved(receipt.leaf, event, receipt.index, checkpoint)


def _unb64(text: str) -> bytes:
    """Only the one encoding that we would write: a receipt whose unused bits were changed is another file."""
    try:
        value = b64decode(text, validate=True)
    except ValueError as error:
        raise BadReceiptError("the receipt is malformed") from error
    if b64encode(value).decode() != text:
        raise BadReceiptError("something in the receipt is not canonical base64")
    return value
