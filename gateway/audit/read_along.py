"""Reading the entries of a log while it is verified, so that what was read is what was verified."""

from collections.abc import Callable

from gateway.audit.tiles import WIDTH, decode_bundle, parse_path
from gateway.audit.verify import Fetch


class ReadAlong:
    """`take` gets the index and bytes of each entry, in order. What it got counts only if the verification holds."""

    def __init__(self, fetch: Fetch, take: Callable[[int, bytes], object]) -> None:
        self._fetch = fetch
        self._take = take

    def fetch(self, path: str) -> bytes | None:
        """To be handed to `verify`."""
        content = self._fetch(path)
        tile = parse_path(path)
        if content is not None and tile is not None and tile.level is None:
            try:
                entries = decode_bundle(content)
            except ValueError:
                return content  # the verification says so
            for place, entry in enumerate(entries):
                self._take(tile.number * WIDTH + place, entry)
        return content
