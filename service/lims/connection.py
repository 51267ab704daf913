"""Connections to destinations, guarded against being led inside (SSRF).

The address that is checked is the address that is connected to: a name that resolves to something
else a moment later (DNS rebinding) changes nothing.
"""

import asyncio
import ipaddress
import socket
import ssl
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052


class ForbiddenAddressError(OSError):
    """The destination has an address that is not on the public internet, and may not have."""


def is_public(address: IpAddress) -> bool:
    """Tell whether an address belongs to the public internet, in whatever IPv6 it is wrapped."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


async def open_guarded(
    host: str, port: int, *, tls: bool, allow_private: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a host.

    Args:
        host: Name or address.
        port: TCP port.
        tls: Whether to speak TLS; the certificate must be valid for `host`.
        allow_private: Whether addresses that are not public are connected to.

    Raises:
        ForbiddenAddressError: It has none but private addresses.
        OSError: It cannot be reached, or (`ssl.SSLError`) is not who it should be.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private:
        addresses = [text for text in addresses if is_public(ipaddress.ip_address(text))]
    if not addresses:
        raise ForbiddenAddressError("the address is not public, and allow_private is off")
    context = ssl.create_default_context() if tls else None
    failure: OSError | None = None
    for address in addresses:
        try:
            return await asyncio.open_connection(
                address, port, ssl=context, server_hostname=host if tls else None
            )
        except OSError as error:
            failure = error
    raise failure or OSError("no address")
