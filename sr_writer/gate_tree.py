"""Walking the content tree of a document (PS3.3 section C.17.3)."""

from collections.abc import Iterator, Sequence
from math import isclose, nan

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

CONTENT = BaseTag(0x0040A730)
"""Content Sequence."""


def value(item: Dataset) -> float:
    """Return the value of a NUM item; not a number where its two spellings, of which viewers show either, differ."""
    measured = item.MeasuredValueSequence[0]
    shown = float(measured.NumericValue)
    exact = float(measured.get("FloatingPointValue", shown))
    return exact if isclose(shown, exact, rel_tol=1e-6, abs_tol=1e-6) else nan


def name(item: Dataset) -> Dataset:
    """Return the concept name of an item."""
    code: Dataset = item.ConceptNameCodeSequence[0]
    return code


def template(item: Dataset) -> str:
    """Return the identifier of the template that an item begins; empty if it does not say."""
    templates: Sequence[Dataset] = item.get("ContentTemplateSequence") or ()
    return str(templates[0].TemplateIdentifier) if templates else ""


def named(item: Dataset, code: str) -> Iterator[Dataset]:
    """Yield the children whose concept name has the code value `code`."""
    for child in item.get("ContentSequence") or ():
        if child.get("ConceptNameCodeSequence") and name(child).CodeValue == code:
            yield child


def children(item: Dataset, value_type: str) -> Iterator[Dataset]:
    """Yield the children of one value type."""
    for child in item.get("ContentSequence") or ():
        if child.ValueType == value_type:
            yield child


def tree(item: Dataset) -> Iterator[Dataset]:
    """Yield everything below an item."""
    for child in item.get("ContentSequence") or ():
        yield child
        yield from tree(child)
