"""A question of the gateway's own between two rounds of a client, of which nothing is left behind."""

from gateway.wire.postgres_messages import message

ANSWERS = frozenset(b"123DC")  # what answers it, up to ReadyForQuery


def question(name: bytes, sql: bytes) -> bytes:
    """Messages that ask for one value. `name` is nobody else's: a simple query would close the unnamed statement, which
    the client may use again behind a Sync (pg8000).
    """
    named, close = name + b"\0", message(b"C", b"S" + name + b"\0")
    return b"".join(
        (
            close,  # it is still there if the last question failed
            message(b"P", named + sql + b"\0\0\0"),
            message(b"B", named + named + bytes(6)),
            message(b"E", named + bytes(4)),
            message(b"C", b"P" + named),
            close,
            message(b"S", b""),
        )
    )
