"""Where a terminal and a browser are, so that a person sees when somebody else's terminal asks (RFC 8628 §5.4)."""

from ipaddress import IPv6Address, ip_address, ip_network

from gateway.core.errors import Refusal

ELSEWHERE = Refusal(
    "terminal-elsewhere",
    "That terminal is at another address than this browser, and you have not said that you know of it.",
    ("a confirmation that the terminal is yours",),
    ("If you did not start it yourself, deny it: somebody may be trying to act in your name.",),
)


def is_elsewhere(terminal: str, browser: str) -> bool:
    """True unless both are the same IPv4 address or in the same IPv6 /64 (what one subscriber has); unknown is true."""
    here = origin_of(browser)
    return here == "" or origin_of(terminal) != here


def origin_of(client: str) -> str:
    """What one person can come from, of an address with a port or without: an IPv4 address, or a /64 of IPv6."""
    address = _without_port(client)
    try:
        read = ip_address(address)
    except ValueError:
        return "" if address == "unknown" else address
    if isinstance(read, IPv6Address) and read.ipv4_mapped is not None:
        read = read.ipv4_mapped
    if read.is_loopback:
        return "loopback"
    return str(ip_network((read, 64), strict=False)) if isinstance(read, IPv6Address) else str(read)


def _without_port(client: str) -> str:
    if client.startswith("["):
        return client[1:].partition("]")[0]
    host, colon, _ = client.partition(":")
    return host if colon and client.count(":") == 1 else client
