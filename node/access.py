"""Who may open an association, and what it may do on it."""

import ipaddress
import socket
from collections.abc import Sequence

from config.settings import Destination, Dicom, Peer
from dicom_io.rights import RIGHTS, Right
from dicom_io.scp_types import AssociationInfo

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REPORTS: frozenset[Right] = frozenset({"report"})


class Access:
    """The allow-list of the listener; without peers only loopback may come in.

    Parameters
    ----------
    dicom : Dicom
        Names the peers.
    reporting : Sequence[Destination]
        Archives that are asked for storage commitment: they may open an association to report, and nothing else.
    """

    def __init__(self, dicom: Dicom, reporting: Sequence[Destination] = ()) -> None:
        self._peers, self._reporting = dicom.peer, tuple(reporting)

    def rights(self, who: AssociationInfo) -> frozenset[Right] | None:
        """Return what a caller may do, all entries that fit it together; None: it may not open an association."""
        address = _address(who.peer)
        if not self._peers and address.is_loopback:
            return RIGHTS
        granted = [frozenset(p.rights) for p in self._peers if _is(p, who, address) and _shows(p, who)]
        granted += [_REPORTS for d in self._reporting if _is(d, who, address)]
        return frozenset().union(*granted) if granted else None


def _is(known: Peer | Destination, who: AssociationInfo, address: Address) -> bool:
    if who.calling != known.ae_title.strip():
        return False
    if "/" in known.host:
        return address in ipaddress.ip_network(known.host)
    return address in _addresses(known.host)


def _shows(peer: Peer, who: AssociationInfo) -> bool:
    kind, _, wanted = peer.certificate.partition(":")
    return not wanted or (wanted in who.names if kind == "name" else wanted == who.certificate)


def _addresses(host: str) -> Sequence[Address]:
    """Resolve a name at every request: scanners move."""
    try:
        return [_address(str(info[4][0])) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def _address(text: str) -> Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
