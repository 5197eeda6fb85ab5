"""Series number and word for the series description of every kind of object, in one table.

Each kind is a series of its own: viewers show the last of several results in one series only.
"""

from typing import NamedTuple


class Series(NamedTuple):
    """Series Number (0020,0011), and the word for Series Description (0008,103E)."""

    number: int
    what: str


SERIES = {
    "sr": Series(901, "report"),
    "csr": Series(901, "report"),  # Comprehensive SR, where Comprehensive 3D SR is not taken
    "seg": Series(902, "segmentation"),
    "sc": Series(903, "summary"),
    "card": Series(903, "not analysed"),  # stands where the summary would
    "overlay": Series(904, "overlay"),
    "gsps": Series(905, "markings"),
    "kos": Series(906, "key images"),
    "pdf": Series(907, "report (PDF)"),
    "text": Series(908, "text report"),
    "rejection": Series(910, "rejection note"),
}
