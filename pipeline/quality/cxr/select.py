"""Whether a radiograph is one to grade: its header against the rows of ``select.toml``; no pixels."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydicom.dataset import Dataset

from dicom_io import elements
from dicom_io.model import Instance, Series, Study
from dicom_io.reason import Reason
from pipeline.api import Considered, Selection
from pipeline.reasons import REASONS


@cache
def rules() -> tuple[Mapping[str, Any], ...]:
    """Return the rows of ``select.toml``."""
    text = files("pipeline.quality.cxr").joinpath("select.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["rule"])


def select(study: Study) -> Selection:
    """Choose the radiograph of `study`: the first one that no rule refuses, where there are several."""
    considered, chosen = [], None
    refused: Reason | None = None
    for one in study.series:
        for image in one.instances:
            reason = _refusal(image)
            if reason is None and chosen is None:
                chosen = Series(one.series_instance_uid, (image,))
                considered.append(Considered(one.series_instance_uid, chosen=True, reason=REASONS("cxr-chosen")))
                break
            refused = refused or reason
        else:
            considered.append(
                Considered(one.series_instance_uid, chosen=False, reason=refused or REASONS("cxr-second"))
            )
    return Selection(chosen, tuple(considered), None if chosen else refused or REASONS("cxr-not-radiograph"))


def _refusal(image: Instance) -> Reason | None:
    try:
        for rule in rules():
            if _fits(rule, image.header):
                return REASONS(rule["code"], limit=rule.get("below", ""))
    except Exception:  # noqa: BLE001 - a header can be odd in ways no list foresees, and selection must answer
        return REASONS("series-header-unusable")
    return None


def _fits(rule: Mapping[str, Any], header: Dataset) -> bool:
    keyword = rule["header"]
    if "below" in rule:
        number = elements.integer(header, keyword)
        return number is not None and number < rule["below"]
    if "matches" in rule:
        return re.search(rule["matches"], elements.text(header, keyword), re.IGNORECASE) is not None
    text = elements.text(header, keyword).upper().replace(" ", "").replace("_", "")
    return text in rule["any_of"] if "any_of" in rule else text not in rule["none_of"]
