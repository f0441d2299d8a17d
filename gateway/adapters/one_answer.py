"""One HTTP answer of somebody who may lie, stall or send without end: a 200, bounded in size and time."""

from collections.abc import Mapping

import httpx2

from gateway.adapters.cut_off import CutOff

_CONNECT_S = 5.0
_HEADERS = {
    "accept-encoding": "identity",  # so that the size limit is the size
    "connection": "close",  # each request opens its own, which can be cut off
}


class UnusableAnswerError(ValueError):
    """The text says why, without what was sent."""


def body_of(
    transport: httpx2.BaseTransport, url: str, headers: Mapping[str, str], *, most: int, seconds: float
) -> bytes:
    """What a GET of `url` answers, at most `most` bytes within `seconds`. Redirects are not followed.

    UnusableAnswerError for any other answer; httpx2.HTTPError, InvalidURL, OSError or RuntimeError when there is none.
    """
    with CutOff(seconds) as cut_off:
        timeout = httpx2.Timeout(seconds, connect=min(seconds, _CONNECT_S))
        extensions = {"timeout": timeout.as_dict(), "trace": cut_off.trace}
        request = httpx2.Request("GET", url, headers={**_HEADERS, **headers}, extensions=extensions)
        try:
            body = _body(transport, request, most)
        except httpx2.HTTPError:
            if cut_off.is_over:
                raise UnusableAnswerError("its answer takes too long") from None
            raise
        if cut_off.is_over:  # a body without a length ends where it is cut
            raise UnusableAnswerError("its answer takes too long")
        return body


def _body(transport: httpx2.BaseTransport, request: httpx2.Request, most: int) -> bytes:
    answer = transport.handle_request(request)
    try:
        if answer.status_code != 200:
            raise UnusableAnswerError(f"it answered with status {answer.status_code}")
        if answer.headers.get("content-encoding", "identity") != "identity":  # a few bytes of it can be gigabytes
            raise UnusableAnswerError("its answer is compressed, which it was asked not to be")
        body = bytearray()
        for part in answer.iter_raw():
            body += part
            if len(body) > most:
                raise UnusableAnswerError("its answer is too large")
        return bytes(body)
    finally:
        answer.close()
