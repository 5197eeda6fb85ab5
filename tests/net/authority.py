"""A certificate authority for tests: certificates that are good, old, new, revoked, and of other names."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from dicom_io.tls import ClientTls, ServerTls, fingerprint

DAY = timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path
    serial: int
    pin: str


class Authority:
    """Signs with a key of its own; `folder` holds everything that it makes."""

    def __init__(self, folder: Path, name: str, above: "Authority | None" = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.key: Key = ec.generate_private_key(ec.SECP256R1())
        self.subject = _name(name)
        issuer, signing = (self.subject, self.key) if above is None else (above.subject, above.key)
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * DAY)
            .not_valid_after(now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(signing, hashes.SHA256())
        )
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, *names: str, begins: timedelta = -DAY, ends: timedelta = 365 * DAY, bits: int = 0
    ) -> Pair:
        """Make a certificate for `names` (host names, addresses); with RSA of so many `bits`, else an elliptic curve."""
        key: Key = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        alternatives = x509.SubjectAlternativeName([_alternative(n) for n in names or ("localhost", "127.0.0.1")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(alternatives, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pair = Pair(
            self.folder / f"{name}.crt",
            self.folder / f"{name}.key",
            certificate.serial_number,
            f"sha256:{fingerprint(certificate.public_bytes(serialization.Encoding.DER))}",
        )
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def revoke(self, name: str, *pairs: Pair, ends: timedelta = 30 * DAY) -> Path:
        """Make a revocation list."""
        now = datetime.now(UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self.subject)
        made = made.last_update(now - 10 * DAY).next_update(now + ends)
        for pair in pairs:
            gone = x509.RevokedCertificateBuilder().serial_number(pair.serial).revocation_date(now - DAY).build()
            made = made.add_revoked_certificate(gone)
        path = self.folder / f"{name}.crl"
        path.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


class Kit:
    """An authority, another that nobody knows, and what they have issued."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ours, self.theirs = (
            Authority(folder / "ours", "Hospital"),
            Authority(folder / "theirs", "Another Hospital"),
        )
        self.middle = Authority(folder / "middle", "Department", self.ours)
        self.node, self.server = self.ours.issue("node"), self.ours.issue("server")
        self.expired = self.ours.issue("expired", begins=-30 * DAY, ends=-DAY)
        self.early = self.ours.issue("early", begins=2 * DAY)
        self.elsewhere = self.ours.issue("elsewhere", "pacs.hospital.example")
        self.revoked = self.ours.issue("revoked")
        self.stranger = self.theirs.issue("stranger")
        self.crl = self.ours.revoke("hospital", self.revoked)

    def client(self, **more: Any) -> ClientTls:
        """Return how the node calls others."""
        return replace(ClientTls(self.ours.path, None, self.node.certificate, self.node.key), **more)

    def listening(self, **more: Any) -> ServerTls:
        """Return how the node is called."""
        return replace(ServerTls(self.server.certificate, self.server.key, self.ours.path), **more)


def replaced(path: Path, data: bytes) -> None:
    """Put new content in the place of a file, as tools that renew certificates do."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(data)
    new.replace(path)


def together(path: Path, parts: Sequence[Path]) -> Path:
    """Put files one after the other."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
