"""Which machines media may be fetched from: a host's name is looked up once, and held to.

The address that was checked is the one that is connected to, so that a name which means another
machine a moment later gains nothing.
"""

import ipaddress
import socket
import threading
from ipaddress import IPv4Address, IPv6Address

from video_llama.errors import ForbiddenSourceError, MediaNotFoundError
from video_llama.media.limits import Deadline

# Networks whose IPv6 addresses carry an IPv4 address: what is inside counts as well.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
# Addresses of the internet by their form, and a cloud's own services by their use.
_SERVICES = frozenset(
    map(
        ipaddress.ip_address,
        ("168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"),
    )
)

Address = IPv4Address | IPv6Address


def is_public(text: str) -> bool:
    """Whether an address belongs to the internet at large.

    Not to this machine, a private network, a link, a cloud's metadata, or a group; whatever form
    the address takes: IPv4 inside IPv6 is looked at, too.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    return all(_is_public(one) for one in (address, *_inside(address)))


def is_link_local(text: str) -> bool:
    """Whether an address is of the link itself, where clouds keep their metadata, or of nobody."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return any(
        one.is_link_local or one.is_multicast or one.is_unspecified or one in _SERVICES
        for one in (address, *_inside(address))
    )


def resolve(host: str, port: int, deadline: Deadline, *, private: bool = False) -> list[str]:
    """The addresses a host may be connected to by, in the system's order.

    Args:
        host: a name, or an address in any form the system reads.
        port: of the service.
        deadline: of the whole fetch.
        private: this host may stand in a private network, or be this machine.

    Raises:
        ForbiddenSourceError: one of its addresses is not allowed; then none is.
        MediaNotFoundError: there is no such host, or nobody tells in time.
    """
    addresses = _look_up(host, port, deadline)
    for address in addresses:
        if is_link_local(address) or not (private or is_public(address)):
            raise ForbiddenSourceError(
                f"{host} stands in a private network, from which no media are fetched; "
                "download the file and give its path"
            )
    return addresses


def _look_up(host: str, port: int, deadline: Deadline) -> list[str]:
    """All addresses. The system's own look-up knows no deadline, so it is left to itself."""
    found: list[str] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found.extend(str(answer[4][0]) for answer in answers)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(deadline.remaining)
    if asking.is_alive():
        deadline.check()
    if not found:
        raise MediaNotFoundError(f"{host} does not answer as it should")
    return list(found)


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and (not address.is_reserved or address in _NAT64)
        and not getattr(address, "is_site_local", False)
        and address not in _SERVICES
    )


def _inside(address: Address) -> tuple[Address, ...]:
    """IPv4 addresses that an IPv6 address stands for, or leads to."""
    if isinstance(address, IPv4Address):
        return ()
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _COMPATIBLE:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(one for one in found if one is not None)
