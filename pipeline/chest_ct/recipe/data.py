"""What a folder of labelled DICOM holds: series, whose they are, what is marked in them, which class they have.

Whatever is not used is told with a reason. One person stands on one side of the split: the side follows from the patient alone.
"""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dicom_io import elements
from dicom_io.discover import discover, shown
from dicom_io.errors import DicomIOError
from dicom_io.model import Instance, Series, group
from dicom_io.stack import Stack, build_stack
from dicom_io.volume import Volume, load_volume
from pipeline.chest_ct.recipe import plausible
from pipeline.chest_ct.recipe.labels import OBJECTS, Label, beside
from pipeline.chest_ct.recipe.refusals import LabelRefused, Refused
from pipeline.chest_ct.recipe.settings import SettingsWrong
from pipeline.result import Mask

Side = Literal["train", "check", "held out"]
SIDES: tuple[Side, ...] = ("train", "check", "held out")
NORMAL = "normal"
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One series that something is learned from, or measured on.

    Parameters
    ----------
    series : Series
        Its images; duplicates dropped.
    patient : str
        Whose it is; stays in memory.
    side : Side
        Of the split.
    site : str
        Where it was made: the table's word, else institution and device.
    klass : str
        Of the table; empty if there is none.
    lesion : Mask or None
        What is marked, on the voxels of the series; empty: nothing to mark; None: not known.
    pixels : str
        Digest of the voxel values.
    synthetic : bool
        Whether the images say that they are of a phantom of this project.
    """

    series: Series
    patient: str
    side: Side
    site: str
    klass: str
    lesion: Mask | None
    pixels: str
    synthetic: bool = False

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return self.series.series_instance_uid


@dataclass(slots=True)
class Gathered:
    """What is used, and what is not."""

    cases: list[Case] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    series: str
    patient: str
    klass: str
    site: str
    label: str


def side(patient: str, split: Mapping[str, Any]) -> Side:
    """Return the side of the split on which a patient is."""
    word = hashlib.sha256(f"{split['salt']}/{patient}".encode()).digest()[:4]
    share = int.from_bytes(word, "big") / 2**32
    if share < split["train"]:
        return "train"
    return "check" if share < split["train"] + split["check"] else "held out"


def table(path: Path) -> list[Row]:
    """Read the table: columns ``series``, and any of ``patient``, ``class``, ``site``, ``label``.

    Raises
    ------
    SettingsWrong
        If it cannot be read, or has no column ``series``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsWrong(f"{path}: {error}") from error
    if not rows or "series" not in rows[0]:
        raise SettingsWrong(f"{path}: no column series; needed: series, and any of patient, class, site, label")
    keys = ("series", "patient", "class", "site", "label")
    return [Row(*((row.get(key) or "").strip() for key in keys)) for row in rows]


def gather(folder: Path, rows: Iterable[Row], settings: Mapping[str, Any], scratch: Path) -> Gathered:
    """Read a folder.

    Parameters
    ----------
    folder : Path
        Series and labels, anywhere below it.
    rows : Iterable[Row]
        Of the table.
    settings : Mapping
        ``recipe.toml``.
    scratch : Path
        For what is unpacked from zip files; must stay as long as the cases are used.
    """
    out = Gathered()
    images, objects = _read(folder, scratch, out)
    by_series = {s.series_instance_uid: s for study in group(images) for s in study.series}
    by_row = _rows(rows, by_series, settings, out)
    labels = _matched(folder, objects, by_series, by_row, out)
    for uid, series in sorted(by_series.items()):
        if uid not in by_row and not labels.get(uid):
            out.refused.append(Refused.by(uid, LabelRefused("series-unlabelled")))
            continue
        try:
            out.cases.append(_case(series, by_row.get(uid), labels.get(uid, []), settings, out))
        except LabelRefused as why:
            out.refused.append(Refused.by(uid, why))
        except DicomIOError as error:
            out.refused.append(Refused.by(uid, error.reason))
    _drop_copies(out)
    return out


def _read(folder: Path, scratch: Path, out: Gathered) -> tuple[list[Instance], list[Label]]:
    images: list[Instance] = []
    labels: list[Label] = []
    seen: set[str] = set()
    for found in discover([folder], scratch):
        instance = found.instance
        if found.display.endswith(_NIFTI):
            labels.append(Label(found.display, found.path))
        elif instance is None:
            if found.reason is not None and not found.skipped and found.path.suffix.lower() not in {".csv", ".toml"}:
                out.refused.append(Refused.by(found.display, found.reason))
        elif instance.sop_instance_uid in seen:
            out.refused.append(Refused.by(found.display, LabelRefused("file-twice")))
        else:
            seen.add(instance.sop_instance_uid)
            if instance.sop_class_uid in OBJECTS:
                labels.append(Label(found.display, found.path, instance))
            elif instance.modality == "CT":
                images.append(instance)
    return images, labels


def _rows(
    rows: Iterable[Row], by_series: Mapping[str, Series], settings: Mapping[str, Any], out: Gathered
) -> dict[str, Row]:
    known = {c["name"] for c in settings["classes"]["class"]}
    kept: dict[str, Row] = {}
    wrong: set[str] = set()
    for row in rows:
        why = None
        if row.series not in by_series:
            why = LabelRefused("table-no-series")
        elif row.klass and row.klass not in known:
            why = LabelRefused("table-class", klass=row.klass)
        elif row.series in kept:
            why = LabelRefused("table-twice")
        if why is None:
            kept[row.series] = row
        else:
            out.refused.append(Refused.by(row.series, why))
            wrong.add(row.series)
    return {uid: row for uid, row in kept.items() if uid not in wrong}


def _matched(
    folder: Path, labels: Iterable[Label], by_series: Mapping[str, Series], by_row: Mapping[str, Row], out: Gathered
) -> dict[str, list[Label]]:
    """Return the labels of each series."""
    by_image = {i.sop_instance_uid: uid for uid, s in by_series.items() for i in s.instances}
    by_file = {shown(row.label): uid for uid, row in by_row.items() if row.label}
    folders = {uid: s.instances[0].path.parent for uid, s in by_series.items()}
    matched: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        try:
            uid = by_file.get(label.item, "")
            if not uid:
                uid = beside(label.path, folder, folders) if label.instance is None else label.series(by_image)
            if uid not in by_series:
                raise LabelRefused("label-of-absent-series")  # noqa: TRY301 - one way out for all
            matched[uid].append(label)
        except LabelRefused as why:
            out.refused.append(Refused.by(label.item, why))
    return matched


def _case(series: Series, row: Row | None, labels: list[Label], settings: Mapping[str, Any], out: Gathered) -> Case:
    """Return one case; its label is refused as a whole where any part of it is."""
    stack = build_stack(series.instances)
    kind = settings["series"]
    thickness = max(stack.thickness_mm or 0.0, stack.spacing_mm)
    if len(stack.instances) < kind["slices"] or thickness > kind["thickness_mm"]:
        raise LabelRefused("series-kind", slices=kind["slices"], thickness=kind["thickness_mm"])
    stated = elements.text(series.header, "PatientID")
    said = row.patient if row is not None else ""
    if said and stated and said != stated:
        raise LabelRefused("series-other-patient")
    patient = said or stated
    if not patient:
        raise LabelRefused("series-no-patient")
    volume = load_volume(stack)
    kept = {image.sop_instance_uid for image in stack.images}
    used = Series(series.series_instance_uid, tuple(i for i in series.instances if i.sop_instance_uid in kept))
    klass = row.klass if row is not None else ""
    lesion = _lesion(stack, volume, klass, labels, stated, settings["lesion"], out)
    if lesion is None and not klass:
        raise LabelRefused("series-unlabelled")
    if lesion is None and not labels and klass != NORMAL:
        out.refused.append(Refused.by(used.series_instance_uid, LabelRefused("series-lesion-unknown", klass=klass)))
    return Case(
        used, patient, side(patient, settings["split"]), _site(series, row), klass, lesion,
        hashlib.sha256(np.ascontiguousarray(volume.array).tobytes()).hexdigest(),
        elements.text(series.header, "ManufacturerModelName") == "chest phantom",
    )  # fmt: skip


def _lesion(
    stack: Stack, volume: Volume, klass: str, labels: list[Label], patient: str, p: Mapping[str, Any], out: Gathered
) -> Mask | None:
    """Return what all labels of a series mark together; None if that is not known."""
    marked = np.zeros(volume.array.shape, np.bool_)
    if not labels:
        return Mask.of(marked) if klass == NORMAL else None
    for label in labels:
        mine = np.zeros(marked.shape, np.bool_)
        try:
            label.paint(stack, p, patient, mine)
            if not mine.any() and klass != NORMAL:
                raise LabelRefused("label-empty")  # noqa: TRY301 - one way out for all
            if mine.any():
                plausible.check(volume, Mask.of(mine), p)
        except LabelRefused as why:
            out.refused.append(Refused.by(label.item, why))
            return None
        marked |= mine
    return Mask.of(marked)


def _site(series: Series, row: Row | None) -> str:
    if row is not None and row.site:
        return row.site
    named = ("InstitutionName", "Manufacturer", "ManufacturerModelName")
    return ", ".join(filter(None, (elements.text(series.header, k) for k in named))) or "?"


def _drop_copies(out: Gathered) -> None:
    """Take away series whose pixels stand there for two patients: one of them is wrong, and sides would leak."""
    owners: dict[str, set[str]] = defaultdict(set)
    for case in out.cases:
        owners[case.pixels].add(case.patient)
    for case in [c for c in out.cases if len(owners[c.pixels]) > 1]:
        out.cases.remove(case)
        out.refused.append(Refused.by(case.uid, LabelRefused("series-twice")))


def counted(cases: Iterable[Case]) -> dict[Side, int]:
    """Return the number of patients of each side."""
    people = {(c.side, c.patient) for c in cases}
    count = Counter(s for s, _ in people)
    return {s: count[s] for s in SIDES}
