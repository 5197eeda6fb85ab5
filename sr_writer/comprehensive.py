"""Comprehensive SR: the report of `sr_writer.sr` for archives that refuse Comprehensive 3D SR.

Agreed: ``build(report, by) -> Dataset``, from the report that `sr_writer.sr.build` returned.

References
----------
PS3.3 section A.35.3 (Comprehensive SR IOD): as Comprehensive 3D SR, without SCOORD3D.
"""

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

from sr_writer.header import Authorship, finish, new_object


def build(report: Dataset, by: Authorship, variant: str = "") -> Dataset:
    """Return the same content tree as another object of another class.

    Parameters
    ----------
    report : Dataset
        A Comprehensive 3D SR; it is not changed.
    by : Authorship
        Whose, by whom, when: that of the report.
    variant : str
        What else makes it another object.

    Raises
    ------
    ValueError
        If the report has a SCOORD3D, which this class does not allow.
    """
    if any(item.get("ValueType") == "SCOORD3D" for item in _content(report)):
        raise ValueError("a report with SCOORD3D cannot be written as Comprehensive SR")
    ds = new_object(by, kind="csr", sop_class_uid=ComprehensiveSRStorage, modality="SR", variant=variant)
    for element in report:
        if element.tag not in ds:
            ds.add(element)
    return finish(ds, by)


def _content(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or ():
        yield child
        yield from _content(child)
