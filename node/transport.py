"""How places are reached, and what the deliverer and the prover say to a destination; tests put a script in its place."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from config.settings import RIS, Destination
from dicom_io import scu, scu_query
from dicom_io.scu import Peer, StoreReport
from dicom_io.scu_query import FoundStudy

if TYPE_CHECKING:
    from dicom_io.http_client import Service


def peer_of(place: Destination | RIS, calling: str) -> Peer:
    """Return how to reach a place of the configuration under our title `calling`."""
    return Peer(place.host, place.port, place.ae_title, calling, place.tls)


class Transport(Protocol):
    """The questions and requests of deliveries; each raises `NetworkError` where its DICOM service does."""

    def store(self, paths: Sequence[Path]) -> Iterator[StoreReport]:
        """Send files; yield one report each, as soon as it is known."""

    def find_study(self, study_uid: str) -> tuple[FoundStudy, ...]:
        """Ask whose study this is."""

    def find_instances(self, study_uid: str, series_uid: str, sop_uids: Collection[str]) -> frozenset[str]:
        """Ask which of these instances are there."""


def transport_of(place: Destination, calling: str) -> "Network | Web":
    """Return how to speak to a destination under our title `calling`."""
    if place.kind == "stow":
        from dicom_io.http_client import Service  # noqa: PLC0415 - of the extra `web`, for who has such a destination

        return Web(Service(place.url, place.token_file, place.token_env, place.headers, place.tls))
    return Network(peer_of(place, calling))


class Network:
    """DICOM.

    Parameters
    ----------
    peer : Peer
        The destination.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def echo(self) -> float:
        """Verify by C-ECHO; return how long the answer took (s)."""
        return scu.echo(self._peer)

    def store(self, paths: Sequence[Path]) -> Iterator[StoreReport]:
        """Send files by C-STORE."""
        return scu.store(self._peer, paths)

    def find_study(self, study_uid: str) -> tuple[FoundStudy, ...]:
        """Ask by C-FIND at study level."""
        return scu_query.find_study(self._peer, study_uid)

    def find_instances(self, study_uid: str, series_uid: str, sop_uids: Collection[str]) -> frozenset[str]:
        """Ask by C-FIND at image level."""
        return scu_query.find_instances(self._peer, study_uid, series_uid, sop_uids)


class Web:
    """DICOMweb.

    Parameters
    ----------
    service : Service
        The destination.
    """

    def __init__(self, service: "Service") -> None:
        from dicom_io import dicomweb  # noqa: PLC0415 - as in `transport_of`

        self._service, self._web = service, dicomweb

    def echo(self) -> float:
        """Verify by a query; return how long the answer took (s)."""
        return self._web.echo(self._service)

    def store(self, paths: Sequence[Path]) -> Iterator[StoreReport]:
        """Send files by STOW-RS."""
        return self._web.store(self._service, paths)

    def find_study(self, study_uid: str) -> tuple[FoundStudy, ...]:
        """Ask by QIDO-RS at study level."""
        return self._web.find_study(self._service, study_uid)

    def find_instances(self, study_uid: str, series_uid: str, sop_uids: Collection[str]) -> frozenset[str]:
        """Ask by QIDO-RS at image level."""
        return self._web.find_instances(self._service, study_uid, series_uid, sop_uids)
