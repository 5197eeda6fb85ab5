"""Which CT series are graded: headers alone.

What is no CT image of a chest by its header is not graded. What a header cannot say is left to the pixels: a series that
should be a chest and is not is a finding, not a refusal.
"""

import re
from typing import Any

from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.errors import DicomIOError
from dicom_io.frames import header_of
from dicom_io.model import Series, Study
from dicom_io.reason import Reason
from dicom_io.stack import build_stack
from pipeline.api import Considered, Selection
from pipeline.chest_ct.select import header_refusal, is_localizer, measures, names_other_part
from pipeline.quality.ct.parameters import parameters
from pipeline.reasons import REASONS


def select(study: Study) -> Selection:
    """Choose the series; of several, as in a whole study, the one with most slices that can be graded."""
    judged = [(series, *_judge(series)) for series in study.series]
    fit = [(used, series) for series, used, _ in judged if used is not None]
    if not fit:
        order = {"not_applicable": 0, "unable": 1}
        reasons = [reason for *_, reason in judged]
        return Selection(
            None,
            tuple(Considered(s.series_instance_uid, chosen=False, reason=r) for s, _, r in judged),
            max(reasons, key=lambda r: order.get(r.klass, 2)),
        )
    used, chosen = max(fit, key=lambda f: (len(f[0].instances), f[0].series_instance_uid))
    considered = tuple(
        Considered(
            s.series_instance_uid, s is chosen, r if u is None or s is chosen else REASONS("series-not-preferred")
        )
        for s, u, r in judged
    )
    return Selection(used, considered, None)


def _judge(series: Series) -> tuple[Series | None, Reason]:
    """Return the images that would be graded, duplicates included, or None and why not."""
    try:
        return _tried(series)
    except Exception:  # noqa: BLE001 - a header can be odd in ways no list foresees, and selection must answer
        return None, REASONS("series-header-unusable")


def _tried(series: Series) -> tuple[Series | None, Reason]:
    images = tuple(i for i in series.instances if not is_localizer(header_of(i))) or series.instances
    header = header_of(images[0])
    refused = header_refusal(header)
    if refused is not None:
        return None, REASONS(refused)
    if names_other_part(header) and not _says_chest(header):
        return None, REASONS("study-other-body-part")
    try:
        stack = build_stack(images)
    except DicomIOError as error:
        return None, error.reason
    seen = measures(stack)
    for rule in _rules():
        if seen[rule["measure"]] < rule["below"]:
            return None, REASONS(rule["code"], value=f"{seen[rule['measure']]:g}", limit=f"{rule['below']:g}")
    return Series(series.series_instance_uid, images), REASONS("series-graded")


def _rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = parameters()["select"]["refuse"]
    return rules


def _says_chest(header: Dataset) -> bool:
    named = parameters()["select"]["chest"]
    said = " ".join(elements.text(header, k) for k in ("SeriesDescription", "ProtocolName", "StudyDescription"))
    return re.search(named, said, re.IGNORECASE) is not None
