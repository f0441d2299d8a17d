from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.proof import BadReceiptError, parse_receipt, verify_receipt
from tests.unit.audit.logs import FORGED, PINNED, Log, events

LOG = Log(events(300))


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299])
def test_a_receipt_proves_its_event(index: int):
    proved = verify_receipt(LOG.receipt(index), PINNED)
    assert proved.index == index
    assert proved.event["id"] == f"evt_{index:04}"


def test_of_one_event():
    assert verify_receipt(Log(events(1)).receipt(0), PINNED).checkpoint.size == 1


@given(st.data())
def test_no_changed_receipt_proves_anything(data: Any):
    raw = LOG.receipt(17).encode()
    changed = bytearray(raw)
    changed[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 127))
    with pytest.raises(BadReceiptError):
        verify_receipt(bytes(changed).decode(errors="replace"), PINNED)


def test_bits_that_base64_leaves_unused_are_not_free():
    text = LOG.receipt(17)
    step = text.split("\n")[3]
    twin = step[:-2] + chr(ord(step[-2]) + 1) + "="
    assert b64decode(twin) == b64decode(step)
    with pytest.raises(BadReceiptError, match="canonical"):
        verify_receipt(text.replace(step, twin), PINNED)


def test_a_receipt_under_a_forged_key():
    with pytest.raises(BadReceiptError):
        verify_receipt(Log(events(3), FORGED).receipt(1), PINNED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x\n\ny",
        "c2sp.org/tlog-proof@v1\nindex 0\n\n",
        "c2sp.org/tlog-proof@v1\nextra AA==\nindex 00\n\n",
        "x" * 300_000,
    ],
)
def test_malformed(text: str):
    with pytest.raises(BadReceiptError):
        parse_receipt(text)
