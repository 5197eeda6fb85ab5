"""The transfer syntaxes of still images: one table for those who negotiate and those who decode.

References
----------
DICOM PS3.5 section 10 and annex A; PS3.6 table A-1.
"""

from dataclasses import dataclass
from typing import Final, Literal

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

Family = Literal["native", "jpeg", "jpeg-2000", "rle"]
"""What the pixel cells are; JPEG-LS streams are built as JPEG's are."""
Decoder = Literal["", "pydicom", "pylibjpeg", "pyjpegls", "pillow", "child"]
"""``child``: GDCM in a process of its own; empty: the library's choice."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """One transfer syntax, the family of its streams and who decodes them."""

    uid: str
    family: Family
    decoder: Decoder = ""


def _row(uid: UID, family: Family, decoder: Decoder = "") -> Syntax:
    return Syntax(str(uid), family, decoder)


# Damaged streams: pylibjpeg-rle panics with what is no Exception, GDCM ends the whole process. Where another decoder can
# do it, it does.
TABLE: Final[tuple[Syntax, ...]] = (
    _row(ExplicitVRLittleEndian, "native"),
    _row(ImplicitVRLittleEndian, "native"),
    _row(DeflatedExplicitVRLittleEndian, "native"),
    _row(ExplicitVRBigEndian, "native"),
    _row(JPEGBaseline8Bit, "jpeg", "pillow"),
    _row(JPEGExtended12Bit, "jpeg", "child"),
    _row(JPEGLossless, "jpeg", "child"),
    _row(JPEGLosslessSV1, "jpeg", "child"),
    _row(JPEGLSLossless, "jpeg", "pyjpegls"),
    _row(JPEGLSNearLossless, "jpeg", "pyjpegls"),
    _row(JPEG2000Lossless, "jpeg-2000", "pylibjpeg"),
    _row(JPEG2000, "jpeg-2000", "pylibjpeg"),
    _row(HTJ2KLossless, "jpeg-2000"),
    _row(HTJ2KLosslessRPCL, "jpeg-2000"),
    _row(HTJ2K, "jpeg-2000"),
    _row(RLELossless, "rle", "pydicom"),
)
"""In the order in which they are offered."""

BY_UID: Final = {row.uid: row for row in TABLE}
