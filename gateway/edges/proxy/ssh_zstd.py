"""Zstandard as rsync's walker needs it: one stream for a whole run, read piece by piece within bounds."""

import sys
from collections.abc import Iterator

from gateway.wire.rsync import INFLATED_AT_ONCE, Inflate
from gateway.wire.rsync_input import RsyncError

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

LARGEST_WINDOW = 23  # as a power of two: 8 MiB, which rsync needs up to its level 19


def zstd() -> Inflate:
    """See `RsyncWalker`."""
    inflater = ZstdDecompressor(options={DecompressionParameter.window_log_max: LARGEST_WINDOW})

    def inflate(data: bytes) -> Iterator[bytes]:
        try:
            yield inflater.decompress(data, INFLATED_AT_ONCE)
            while not inflater.needs_input and not inflater.eof:
                yield inflater.decompress(b"", INFLATED_AT_ONCE)
        except (ZstdError, EOFError) as why:
            raise RsyncError("zstd that cannot be read") from why

    return inflate
