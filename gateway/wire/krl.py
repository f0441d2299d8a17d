"""OpenSSH key revocation lists (PROTOCOL.krl, format version 1): certificates of one authority, by serial.

Unsigned: whoever fetches one trusts the connection that it came over.
"""

import struct
from collections.abc import Iterable

MAGIC = 0x5353484B524C0A00  # "SSHKRL\n\0"
FORMAT_VERSION = 1
MOST_SERIALS = 100_000
_CERTIFICATES = 1
_SERIAL_LIST = 0x20
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


def revoked_certificates(
    ca: bytes, serials: Iterable[int], *, version: int, generated: int, comment: str = ""
) -> bytes:
    """A list of the certificates with these serials (1 to 2^64-1) that the authority `ca` signed.

    `ca` is its public key in SSH's wire encoding, `version` grows from list to list, `generated` is in seconds since
    1970. ValueError for serial 0, which stands for none, and for more than MOST_SERIALS.
    """
    listed = sorted(set(serials))
    if len(listed) > MOST_SERIALS or (listed and listed[0] < 1):
        raise ValueError("a revocation list of serials that cannot be listed")
    head = _U64.pack(MAGIC) + _U32.pack(FORMAT_VERSION) + _U64.pack(version) + _U64.pack(generated) + _U64.pack(0)
    head += _string(b"") + _string(comment.encode())
    if not listed:
        return head
    numbers = b"".join(map(_U64.pack, listed))
    section = _string(ca) + _string(b"") + bytes((_SERIAL_LIST,)) + _string(numbers)
    return head + bytes((_CERTIFICATES,)) + _string(section)


def _string(octets: bytes) -> bytes:
    return _U32.pack(len(octets)) + octets
