"""What the node speaks on the wire: storage classes, transfer syntaxes, and the library's switches.

Importing this module sets the process-wide switches of pynetdicom; every module that opens or accepts an association
imports it first.
"""

import logging

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AllStoragePresentationContexts, _config

from dicom_io import syntaxes

PDU_BYTES = 131072
"""Largest PDU that we take: at 128 KiB receiving costs a fifth less time than at the library's 16 KiB."""

STILL_IMAGE_SYNTAXES: tuple[str, ...] = tuple(row.uid for row in syntaxes.TABLE)
"""Every transfer syntax of still images (PS3.5 section 10, PS3.6 table A-1)."""

STORAGE_CLASSES: tuple[str, ...] = tuple(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
"""Every storage SOP class of PS3.4 table B.5-1 that the library knows; others are accepted too."""

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PERFORMED_STEP = "1.2.840.10008.3.1.2.3.3"
AVAILABILITY = "1.2.840.10008.5.1.4.33"
COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The one SOP Instance that every storage commitment request and result is about (PS3.4 annex J.3.5)."""

NOTICE_SYNTAXES: tuple[str, ...] = (str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian))
"""Transfer syntaxes of notices, the preferred one first: everybody who takes notices takes the default syntax, so what
came in it can be passed on byte for byte."""

INTERCHANGEABLE = frozenset(map(str, (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)))
"""Syntaxes whose data sets can be re-encoded into one another without touching a pixel."""


def choose_syntax(proposed: list[str]) -> str:
    """Return the transfer syntax to accept of those that a peer proposes for one storage context.

    The peer's order is its preference. A context with nothing that we can decode is accepted too: the object is kept
    and refused later with a reason, which its sender's operator can read, unlike a failed negotiation.
    """
    return next((syntax for syntax in proposed if syntax in STILL_IMAGE_SYNTAXES), proposed[0])


def _configure() -> None:
    _config.UNRESTRICTED_STORAGE_SERVICE = True  # private and new storage classes
    _config.STORE_SEND_CHUNKED_DATASET = True  # files leave as they stand, undecoded
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False  # patient data
    _config.LOG_RESPONSE_IDENTIFIERS = False  # patient data
    # The library logs tracebacks, and a traceback of a decoder may quote a value: our own records say what happened.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


_configure()
