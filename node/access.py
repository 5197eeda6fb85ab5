"""Who may open an association, and what it may do on it."""

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterable, Sequence

from config.settings import Destination, Dicom, Peer
from dicom_io.rights import RIGHTS, Right
from dicom_io.scp_types import AssociationInfo

NAMES_EVERY_S = 15.0
"""Names of hosts are looked up so often: scanners move, and who is at the door must not wait for a name server."""
_FIRST_S = 3.0
"""So long the start waits for them."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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
        self._at = Addresses([*(p.host for p in self._peers), *(d.host for d in self._reporting)])

    def rights(self, who: AssociationInfo) -> frozenset[Right] | None:
        """Return what a caller may do, all entries that fit it together; None: it may not open an association."""
        address = _address(who.peer)
        if not self._peers and address.is_loopback:
            return RIGHTS
        granted = [frozenset(p.rights) for p in self._peers if self._is(p, who, address) and _shows(p, who)]
        granted += [_REPORTS for d in self._reporting if self._is(d, who, address) and _proves(d, who)]
        return frozenset().union(*granted) if granted else None

    def _is(self, known: Peer | Destination, who: AssociationInfo, address: Address) -> bool:
        return who.calling == known.ae_title.strip() and self._at.has(known.host, address)


class Addresses:
    """What hosts and networks stand for; names are looked up again and again by a thread of their own.

    A name that cannot be looked up keeps the addresses that it had.

    Parameters
    ----------
    hosts : Iterable[str]
        Names, addresses, networks.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self._networks: dict[str, frozenset[Network]] = {}
        names = []
        for host in dict.fromkeys(hosts):
            try:
                self._networks[host] = frozenset({ipaddress.ip_network(host if "/" in host else _address(host))})
            except ValueError:
                names.append(host)
        if names:
            first = threading.Event()
            threading.Thread(target=self._look_up, args=(names, first), name="names", daemon=True).start()
            first.wait(_FIRST_S)

    def has(self, host: str, address: Address) -> bool:
        """Say whether `address` is one of `host`; never waits."""
        return any(address in network for network in self._networks.get(host, ()))

    def _look_up(self, names: Sequence[str], first: threading.Event) -> None:
        while True:
            for name in names:
                with contextlib.suppress(OSError, ValueError):
                    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                    self._networks[name] = frozenset(ipaddress.ip_network(_address(str(at[4][0]))) for at in found)
            first.set()
            time.sleep(NAMES_EVERY_S)


def _shows(peer: Peer, who: AssociationInfo) -> bool:
    kind, _, wanted = peer.certificate.partition(":")
    return not wanted or (wanted in who.names if kind == "name" else wanted == who.certificate)


def _proves(archive: Destination, who: AssociationInfo) -> bool:
    """Say whether the certificate that was shown is that of the archive; without TLS here nobody shows one."""
    if archive.tls is None or not who.certificate:
        return True
    pin = archive.tls.pin.removeprefix("sha256:")
    return who.certificate == pin if pin else (archive.tls.server_name or archive.host) in who.names


def _address(text: str) -> Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
