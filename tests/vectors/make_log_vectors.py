"""Writes log.json beside itself: `python -m tests.vectors.make_log_vectors`. Keys are fixed, Ed25519 is deterministic."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.checkpoint import COSIGNATURE, Checkpoint, cosignature, sign_checkpoint, verifier_of
from gateway.audit.leaf import encode_event
from gateway.audit.merkle import leaf_hash, root_of
from gateway.audit.tiles import encode_bundle

PATH = Path(__file__).with_name("log.json")
LOG = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
WITNESS = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
ORIGIN = "gw.example/audit"
WITNESS_NAME = "w.example/w1"
TIME = 1_700_000_000
ENTRIES = [b"a", b"b", b"c"]
EVENT = {
    "at": "2026-01-31T09:30:00.000000Z",
    "data": {"text": 'tab\t, quote ", bell \x07, é, 𝄞', "list": [1, 0.5, None, True], "\ue000": 1, "😀": 2},
    "grant": "grt_01",
    "id": "evt_01",
    "outcome": "ok",
    "principal": "oncall",
    "request": "",
    "session": "",
    "source": "gateway/gw-1",
    "target": "orders-db",
    "type": "grant:issued",
}


def vectors() -> dict[str, object]:
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    checkpoint = Checkpoint(ORIGIN, len(ENTRIES), root_of(leaves))
    note = sign_checkpoint(checkpoint, LOG) + cosignature(checkpoint.text(), WITNESS_NAME, WITNESS, TIME)
    return {
        "log_vkey": verifier_of(ORIGIN, LOG).text(),
        "witness_vkey": verifier_of(WITNESS_NAME, WITNESS, COSIGNATURE).text(),
        "bundle": encode_bundle(ENTRIES).hex(),
        "leaves": [leaf.hex() for leaf in leaves],
        "note": note,
        "event": EVENT,
        "leaf": encode_event(EVENT).decode(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=2, ensure_ascii=True) + "\n")
