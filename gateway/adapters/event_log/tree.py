"""The stored tree in SQL: its head, its tiles, its entries. Every function works inside the caller's transaction."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Table, delete, insert, select
from sqlmodel import SQLModel

from gateway.adapters.store.log_tables import EventRow, LogCheckpointRow, LogHeadRow, LogTileRow
from gateway.audit.tiles import WIDTH, Load, Tile, encode_bundle, width_of

EVENTS: Final[Table] = SQLModel.metadata.tables[str(EventRow.__tablename__)]
TILES: Final[Table] = SQLModel.metadata.tables[str(LogTileRow.__tablename__)]
CHECKPOINTS: Final[Table] = SQLModel.metadata.tables[str(LogCheckpointRow.__tablename__)]
HEAD: Final[Table] = SQLModel.metadata.tables[str(LogHeadRow.__tablename__)]


@dataclass(frozen=True, slots=True)
class Head:
    """The newest checkpoint as stored, not verified."""

    size: int
    root: bytes
    note: str


def newest_head(connection: Connection) -> Head | None:
    """None before the log was begun."""
    columns = CHECKPOINTS.c
    row = connection.execute(
        select(columns.size, columns.root, columns.note).order_by(columns.size.desc()).limit(1)
    ).first()
    return None if row is None else Head(row.size, bytes(row.root), row.note)


def root_at(connection: Connection, size: int) -> bytes | None:
    """The root that was signed for that size, if one was."""
    root = connection.execute(select(CHECKPOINTS.c.root).where(CHECKPOINTS.c.size == size)).scalar()
    return None if root is None else bytes(root)


def add_checkpoint(connection: Connection, head: Head, signed_at: int) -> None:
    """The primary key forbids a second checkpoint of one size."""
    values = {"size": head.size, "root": head.root, "note": head.note, "signed_at": signed_at}
    connection.execute(insert(CHECKPOINTS).values(**values))


def tile_loader(connection: Connection) -> Load:
    """(level, number) → hashes, b"" for a tile that is not stored."""

    def load(level: int, number: int) -> bytes:
        query = select(TILES.c.hashes).where(TILES.c.level == level, TILES.c.number == number)
        return bytes(connection.execute(query).scalar() or b"")

    return load


def store_tiles(connection: Connection, changed: dict[tuple[int, int], bytes]) -> None:
    """Put tiles in the place of their narrower selves."""
    for (level, number), hashes in changed.items():
        connection.execute(delete(TILES).where(TILES.c.level == level, TILES.c.number == number))
        connection.execute(insert(TILES).values(level=level, number=number, hashes=hashes))


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
    return [bytes(leaf) for leaf in connection.execute(query).scalars()]
