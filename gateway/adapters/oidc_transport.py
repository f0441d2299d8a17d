"""The transports of the OpenID Connect client: answers are bounded in size and time; one pool serves many clients."""

from collections.abc import Iterator
from time import monotonic

import httpx2

MAX_BODY = 1024 * 1024
PLAIN = {"accept-encoding": "identity"}  # so that the size limit is the size
TOTAL_S = 10.0  # of one answer: a client's timeouts are for each read, and a provider that drips never meets them


class BoundedTransport(httpx2.BaseTransport):
    """Cuts answers that are larger than `MAX_BODY`, or whose body is not over after `TOTAL_S`.

    Whoever sends through it asks for `PLAIN` answers; a compressed one is refused, as few bytes can be gigabytes of it.
    """

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer of the transport inside; reading too much of it raises ReadError, for too long ReadTimeout."""
        until = monotonic() + TOTAL_S
        answer = self._inner.handle_request(request)
        if answer.headers.get("content-encoding", "identity") != "identity":
            answer.close()
            raise httpx2.ReadError("the answer is compressed")
        stream = answer.stream
        if not isinstance(stream, httpx2.SyncByteStream):
            raise httpx2.ProtocolError("not a synchronous answer")
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=_BoundedStream(stream, until))

    def close(self) -> None:
        """Close the transport inside."""
        self._inner.close()


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream, until: float) -> None:
        self._inner = inner
        self._until = until

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._inner:
            size += len(part)
            if size > MAX_BODY:
                raise httpx2.ReadError("the answer is too large")
            if monotonic() > self._until:
                raise httpx2.ReadTimeout("the answer takes too long")
            yield part

    def close(self) -> None:
        self._inner.close()


class Borrowed(httpx2.BaseTransport):
    """A shared transport that outlives the client it is lent to."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """As the transport that was lent."""
        return self._inner.handle_request(request)
