"""Whether the files of TLS can be used, and until when: what an operator has to know before a peer finds out."""

import itertools
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dicom_io.errors import TlsError
from dicom_io.reason import Reason
from dicom_io.reasons import REASONS
from dicom_io.tls import ClientTls, ServerTls, client_context, server_context

AHEAD = timedelta(days=30)
"""A certificate that ends sooner is told: a new one takes people time."""
CRL_AHEAD = timedelta(days=3)
"""A revocation list that ends sooner is told: they are made every few days, and without a valid one nobody comes in."""

CODES = frozenset({
    "tls-file-unreadable", "tls-file-broken", "tls-key-mismatch", "tls-key-exposed", "tls-key-encrypted",
    "certificate-expires", "certificate-expired", "certificate-not-yet-valid", "certificate-chain-broken",
    "crl-expires", "crl-expired", "crl-missing",
})  # fmt: skip
"""Of everything that `complaints` can give."""

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\n?", re.DOTALL)


def complaints(tls: ServerTls | ClientTls, now: datetime) -> tuple[tuple[Path, Reason], ...]:
    """Return what is wrong or soon will be, with the file that it is about; `now` is aware."""
    try:
        server_context(tls) if isinstance(tls, ServerTls) else client_context(tls)
    except TlsError as error:
        return ((tls.certificate or tls.ca or tls.crl or Path(), error.reason),)
    return tuple(_found(tls, now))


def _found(tls: ServerTls | ClientTls, now: datetime) -> Iterator[tuple[Path, Reason]]:
    from cryptography import x509  # noqa: PLC0415 - only needed where there is TLS

    own = () if tls.certificate is None else x509.load_pem_x509_certificates(tls.certificate.read_bytes())
    trusted = () if tls.ca is None else x509.load_pem_x509_certificates(tls.ca.read_bytes())
    for path, certificates in ((tls.certificate, own), (tls.ca, trusted)):
        for certificate in certificates:
            if path is not None and (reason := _term(path, certificate, now)) is not None:
                yield path, reason
    if tls.certificate is not None and not _chained(own):
        yield tls.certificate, REASONS("certificate-chain-broken", file=tls.certificate)
    if tls.crl is not None:
        yield from ((tls.crl, reason) for reason in _lists(tls.crl, trusted, now))


def _term(path: Path, certificate: Any, now: datetime) -> Reason | None:  # noqa: ANN401 - an optional import's class
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        return REASONS("certificate-not-yet-valid", file=path, since=f"{begins:%Y-%m-%d %H:%M}")
    if now > ends:
        return REASONS("certificate-expired", file=path, until=f"{ends:%Y-%m-%d %H:%M}")
    return REASONS("certificate-expires", file=path, until=f"{ends:%Y-%m-%d %H:%M}") if now > ends - AHEAD else None


def _chained(certificates: Sequence[Any]) -> bool:
    """Say whether each certificate was issued by the next one."""
    for one, issuer in itertools.pairwise(certificates):
        try:
            one.verify_directly_issued_by(issuer)
        except Exception:  # noqa: BLE001 - another name, another key or a damaged signature
            return False
    return True


def _lists(path: Path, trusted: Sequence[Any], now: datetime) -> Iterator[Reason]:
    from cryptography import x509  # noqa: PLC0415 - as above

    lists = [x509.load_pem_x509_crl(found) for found in _CRL.findall(path.read_bytes())]
    for found in lists:
        ends = found.next_update_utc
        if ends is not None and now > ends - CRL_AHEAD:
            code = "crl-expired" if now > ends else "crl-expires"
            yield REASONS(code, file=path, until=f"{ends:%Y-%m-%d %H:%M}")
    for authority in trusted:
        if not any(found.issuer == authority.subject for found in lists):
            yield REASONS("crl-missing", file=path, authority=authority.subject.rfc4514_string())
