"""A log in memory, and an operator who may tamper with it: with the files alone, or with the key as well."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.checkpoint import Checkpoint, VerifierKey, sign_checkpoint, verifier_of
from gateway.audit.leaf import encode_event
from gateway.audit.merkle import inclusion_proof, leaf_hash
from gateway.audit.proof import build_receipt
from gateway.audit.tiles import WIDTH, GrowingTree, encode_bundle, nodes_of, tiles_of

ORIGIN = "gw.example/audit"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
FORGED = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
PINNED: VerifierKey = verifier_of(ORIGIN, KEY)


def event(number: int, **data: object) -> bytes:
    return encode_event(
        {
            "at": "2026-01-31T09:30:00.000000Z",
            "data": {"n": number, **data},
            "grant": "",
            "id": f"evt_{number:04}",
            "outcome": "ok",
            "principal": "oncall",
            "request": "",
            "session": "",
            "source": "gateway/test",
            "target": "orders-db",
            "type": "grant:issued",
        }
    )


def events(count: int) -> list[bytes]:
    return [event(number) for number in range(count)]


class Log:
    """`files` is what is served: tamper with it as you like."""

    def __init__(self, entries: list[bytes], key: Ed25519PrivateKey = KEY) -> None:
        self.entries = list(entries)
        stored: dict[tuple[int, int], bytes] = {}
        tree = GrowingTree(0, lambda level, number: stored[level, number])
        for entry in entries:
            tree.append(leaf_hash(entry))
        self.tiles = tree.changed
        self.note = sign_checkpoint(Checkpoint(ORIGIN, tree.size, tree.root()), key)
        self.files = {"checkpoint": self.note.encode()}
        for tile in tiles_of(tree.size):
            if tile.level is None:
                first = tile.number * WIDTH
                self.files[tile.path()] = encode_bundle(entries[first : first + tile.width])
            else:
                self.files[tile.path()] = self.tiles[tile.level, tile.number]

    def serve_entries(self, entries: list[bytes]) -> None:
        """The entries in the files are others; tiles and checkpoint stay."""
        for tile in tiles_of(len(self.entries)):
            if tile.level is None:
                first = tile.number * WIDTH
                self.files[tile.path()] = encode_bundle(entries[first : first + tile.width])

    def receipt(self, index: int) -> str:
        node = nodes_of(lambda level, number: self.tiles[level, number])
        hashes = inclusion_proof(index, len(self.entries), node)
        return build_receipt(self.entries[index], index, hashes, self.note)
