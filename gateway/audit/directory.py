"""An exported log as files: `checkpoint` and `tile/…` exactly as the log serves them."""

from collections.abc import Iterator
from pathlib import Path

from gateway.audit.checkpoint import MAX_NOTE
from gateway.audit.tiles import MAX_BUNDLE, parse_path, tiles_of
from gateway.audit.verify import Fetch

CHECKPOINT = "checkpoint"


def fetch_from(directory: Path) -> Fetch:
    """Read from an export. Bounded: a file that is larger than its kind may be is cut, and so does not verify."""

    def fetch(path: str) -> bytes | None:
        if path != CHECKPOINT and parse_path(path) is None:
            return None
        place = directory / path
        if not place.is_file():  # nothing there, or a pipe that would be waited for
            return None
        with place.open("rb") as file:
            return file.read((MAX_NOTE if path == CHECKPOINT else MAX_BUNDLE) + 1)

    return fetch


def export_paths(size: int) -> Iterator[str]:
    """Every file of an export of `size` events but the checkpoint."""
    return (tile.path() for tile in tiles_of(size))
