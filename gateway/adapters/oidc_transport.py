"""The transports of the OpenID Connect client: answers have a largest size, and one pool serves many clients."""

from collections.abc import Iterator

import httpx2

MAX_BODY = 1024 * 1024


class BoundedTransport(httpx2.BaseTransport):
    """Cuts answers that are larger than `MAX_BODY`."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer of the transport inside; reading too much of it raises ReadError."""
        answer = self._inner.handle_request(request)
        stream = answer.stream
        if not isinstance(stream, httpx2.SyncByteStream):
            raise httpx2.ProtocolError("not a synchronous answer")
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=_BoundedStream(stream))

    def close(self) -> None:
        """Close the transport inside."""
        self._inner.close()


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._inner:
            size += len(part)
            if size > MAX_BODY:
                raise httpx2.ReadError("the answer is too large")
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
