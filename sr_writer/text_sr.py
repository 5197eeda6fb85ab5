"""Basic Text SR: the narrative line by line, for viewers that show reports as text only.

Agreed: ``build(result, sources, by) -> Dataset``, and where there is no result
``build_card(reason, outcome, considered, sources, by) -> Dataset``.

References
----------
PS3.3 section A.35.1 (Basic Text SR IOD); PS3.16 CID 7000 (title), CID 7001 and 7002 (headings and what stands below).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal
from unicodedata import east_asian_width

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import BasicTextSRStorage

from dicom_io.model import ImageKey
from dicom_io.reason import Reason
from pipeline.result import Result
from sr_writer.codes import localise, text
from sr_writer.considered import Considered, card_variant
from sr_writer.content import COMMENT, document, image_item, language, observer, section, text_item
from sr_writer.header import Authorship, finish, new_object
from sr_writer.narrative import Paragraph, no_result, paragraphs
from sr_writer.references import evidence, place
from sr_writer.sources import Sources
from sr_writer.tracked import finding_keys

Narratives = Mapping[str, Sequence[Paragraph]]
"""The narrative in every language."""

_TITLE = DicomCode("18748-4", "LN", "Diagnostic Imaging Report")
_FINDINGS = DicomCode("121070", "DCM", "Findings")
_FINDING = DicomCode("121071", "DCM", "Finding")
_IMPRESSION = DicomCode("121073", "DCM", "Impression")
_KEY_IMAGES = DicomCode("121180", "DCM", "Key Images")
_ILLUSTRATION = DicomCode("121080", "DCM", "Best illustration of finding")
"""OHIF 3.13.2 shows nothing of a report in which one item has no concept name."""
_NAMES = {"impression": _IMPRESSION, "findings": _FINDING, "measurements": _FINDING}
"""What the lines of a topic are; those of the others are comments."""
_HEADED = {"series", "limits", "not_evaluated"}
"""Topics whose lines do not say themselves what they are about."""
COLUMNS = 72
"""Width of a line that lists numbers: OHIF 3.13.2 shows findings in lines as they are and cuts longer ones."""


def build(result: Result, sources: Sources, by: Authorship) -> Dataset:
    """Return the narrative of `result`, one section a language, then the key images.

    Parameters
    ----------
    result : Result
        What to say; a negative one says so.
    sources : Sources
        Every input.
    by : Authorship
        Whose, by whom, when.
    """
    said = {tag: paragraphs(result, tag, research=by.options.research, plain=True) for tag in by.languages}
    return _report(said, finding_keys(result), sources, by)


def build_card(
    reason: Reason,
    outcome: Literal["not_analysed", "failed"],
    considered: Sequence[Considered],
    sources: Sources,
    by: Authorship,
) -> Dataset:
    """Return the statement that there is no result, and why.

    Parameters
    ----------
    reason : Reason
        Why.
    outcome : {"not_analysed", "failed"}
        Whether it worked as designed.
    considered : Sequence[Considered]
        Series that were looked at, with what was thought of them.
    sources : Sources
        What was looked at.
    by : Authorship
        Whose, by whom, when.
    """
    who = by.identity
    said = {
        tag: no_result(
            reason, outcome, considered, tag, pipeline=who.pipeline, version=who.version, research=by.options.research
        )
        for tag in by.languages
    }
    ds = _report(said, (), sources, by, card_variant(reason, outcome, considered))
    if outcome == "failed":
        ds.CompletionFlag, ds.CompletionFlagDescription = "PARTIAL", reason.code[:64]
    return ds


def _report(said: Narratives, keys: Sequence[ImageKey], sources: Sources, by: Authorship, variant: str = "") -> Dataset:
    ds = new_object(by, kind="text", sop_class_uid=BasicTextSRStorage, modality="SR", variant=variant)
    context = [language(by.languages[0]), *observer(by.identity)]
    sections = [section(_FINDINGS, [language(tag), *_lines(narrative, tag, by)]) for tag, narrative in said.items()]
    for item, tag in zip(sections, said, strict=True):
        localise(item, tag)
    if keys:
        sections.append(section(_KEY_IMAGES, [image_item(sources.images[key], _ILLUSTRATION) for key in keys]))
        localise(sections[-1], by.languages[0])
    root = document(_TITLE, context)
    localise(root, by.languages[0])
    root.ContentSequence = [*context, *sections]
    for element in root:
        ds.add(element)
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.PerformedProcedureCodeSequence, ds.ReferencedPerformedProcedureStepSequence = [], []
    ds.CurrentRequestedProcedureEvidenceSequence = evidence(map(place, sources.instances.values()))
    return finish(ds, by)


def _lines(narrative: Sequence[Paragraph], tag: str, by: Authorship) -> Iterator[Dataset]:
    for paragraph in narrative:
        name = _NAMES.get(paragraph.topic, COMMENT)
        for line in paragraph.lines:
            headed = paragraph.topic in _HEADED
            said = text("labelled", tag, name=paragraph.heading, value=line) if headed else line
            yield text_item(name, _folded(said, tag) if name is _FINDING else said, None, by)


def _folded(line: str, tag: str) -> str:
    """Break a list of numbers between them."""
    clause = text("clause", tag)
    first, *rest = line.split(clause)
    lines = [first]
    for part in rest:
        if _width(lines[-1]) + _width(clause) + _width(part) < COLUMNS:
            lines[-1] += clause + part
        else:
            lines[-1] += clause.rstrip()
            lines.append("  " + part)
    return "\r\n".join(lines)


def _width(line: str) -> int:
    """Return how many columns a line takes where every character is as wide as another; Chinese ones take two."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in line)
