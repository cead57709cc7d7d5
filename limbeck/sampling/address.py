"""Of an address: which origin it belongs to, and whether a network is on the way to it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def origin(url: str) -> str:
    """scheme://host:port, which a key is bound to."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return "no address"
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def loopback(url: str) -> bool:
    """Whether the address is this machine's own."""
    host = (urlsplit(url).hostname or "").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
