"""Who may open an association, and what it may do on it."""

import ipaddress
import socket
from collections.abc import Sequence

from config.settings import Destination, Dicom, Peer
from dicom_io.scp_types import RIGHTS, AssociationInfo, Right


class Access:
    """The allow-list of the listener; without peers only loopback may come in.

    Parameters
    ----------
    dicom : Dicom
        Names the peers.
    reporting : Sequence[Destination]
        Archives that are asked for storage commitment: they open an association to report.
    """

    def __init__(self, dicom: Dicom, reporting: Sequence[Destination] = ()) -> None:
        self._peers: tuple[Peer, ...] = dicom.peer
        self._known: tuple[Peer | Destination, ...] = (*dicom.peer, *reporting)

    def rights(self, who: AssociationInfo) -> frozenset[Right] | None:
        """Return what a caller may do; None: it may not open an association."""
        if not self._peers and _address(who.peer).is_loopback:
            return RIGHTS
        known = any(who.calling == p.ae_title.strip() and _address(who.peer) in _addresses(p) for p in self._known)
        return RIGHTS if known else None


def _addresses(peer: Peer | Destination) -> Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Resolve a peer at every request: names of scanners move."""
    try:
        return [_address(str(info[4][0])) for info in socket.getaddrinfo(peer.host, None, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
