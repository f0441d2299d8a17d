"""The stored tree in SQL: its head, its tiles, its entries. Every function works inside the caller's transaction."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Table, bindparam, insert, select, update
from sqlmodel import SQLModel

from gateway.adapters.store.log_tables import EventRow, LogCheckpointRow, LogHeadRow, LogTileRow
from gateway.adapters.store.prepared import Prepared
from gateway.audit.leaf import MAX_LEAF
from gateway.audit.tiles import WIDTH, Load, Tile, encode_bundle, width_of

EVENTS: Final[Table] = SQLModel.metadata.tables[str(EventRow.__tablename__)]
TILES: Final[Table] = SQLModel.metadata.tables[str(LogTileRow.__tablename__)]
CHECKPOINTS: Final[Table] = SQLModel.metadata.tables[str(LogCheckpointRow.__tablename__)]
HEAD: Final[Table] = SQLModel.metadata.tables[str(LogHeadRow.__tablename__)]
# Made once: building a statement anew costs more than running it, and these run in every batch.
_NEWEST: Final = Prepared(
    select(CHECKPOINTS.c.size, CHECKPOINTS.c.root, CHECKPOINTS.c.note).order_by(CHECKPOINTS.c.size.desc()).limit(1)
)
_AT: Final = (TILES.c.level == bindparam("of_level")) & (TILES.c.number == bindparam("of_number"))
_TILE: Final = Prepared(select(TILES.c.hashes).where(_AT))
_WIDEN: Final = Prepared(update(TILES).where(_AT).values(hashes=bindparam("grown")))
_ADD_TILE: Final = Prepared(insert(TILES))
_ADD_CHECKPOINT: Final = Prepared(insert(CHECKPOINTS))


@dataclass(frozen=True, slots=True)
class Head:
    """The newest checkpoint as stored, not verified."""

    size: int
    root: bytes
    note: str


def stored_bytes(value: object) -> bytes:
    """A column's bytes. SQLite keeps whatever type somebody else writes into a column; what is no text is nothing."""
    if isinstance(value, str):
        return value.encode(errors="replace")
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def newest_head(connection: Connection) -> Head | None:
    """None before the log was begun."""
    c = CHECKPOINTS.c
    found = _NEWEST.find(connection)
    return Head(found[0][c.size], stored_bytes(found[0][c.root]), found[0][c.note]) if found else None


def root_at(connection: Connection, size: int) -> bytes | None:
    """The root that was signed for that size, if one was."""
    root = connection.execute(select(CHECKPOINTS.c.root).where(CHECKPOINTS.c.size == size)).scalar()
    return None if root is None else stored_bytes(root)


def add_checkpoint(connection: Connection, head: Head, signed_at: int) -> None:
    """The primary key forbids a second checkpoint of one size."""
    values = {"size": head.size, "root": head.root, "note": head.note, "signed_at": signed_at}
    _ADD_CHECKPOINT.run(connection, values)


def tile_loader(connection: Connection) -> Load:
    """(level, number) → hashes, b"" for a tile that is not stored."""

    def load(level: int, number: int) -> bytes:
        found = _TILE.find(connection, of_level=level, of_number=number)
        return stored_bytes(found[0][TILES.c.hashes]) if found else b""

    return load


def store_tiles(connection: Connection, changed: dict[tuple[int, int], bytes]) -> None:
    """Put tiles in the place of their narrower selves."""
    for (level, number), hashes in changed.items():
        of = {"of_level": level, "of_number": number, "grown": hashes}
        if not _WIDEN.run(connection, of):
            _ADD_TILE.run(connection, {"level": level, "number": number, "hashes": hashes})


def tile_bytes(connection: Connection, tile: Tile) -> bytes | None:
    """What is served for a tile under the newest checkpoint; None when the tree has no such tile (yet)."""
    head = newest_head(connection)
    if head is None or tile.width > width_of(tile.level or 0, tile.number, head.size):
        return None
    if tile.level is None:
        return encode_bundle(_entries(connection, tile.number * WIDTH, tile.width))
    return tile_loader(connection)(tile.level, tile.number)[: tile.width * 32]


def _entries(connection: Connection, first: int, count: int) -> list[bytes]:
    position = EVENTS.c.position
    query = select(EVENTS.c.leaf).where(position >= first, position < first + count).order_by(position)
    # A leaf that somebody made too long is cut, and so does not verify, instead of hiding its neighbours.
    return [stored_bytes(leaf)[:MAX_LEAF] for leaf in connection.execute(query).scalars()]
