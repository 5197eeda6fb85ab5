"""The objects of the matrix as files: sources once a geometry and sender, every object once a test run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

import phantom
from dicom_io.model import group
from dicom_io.reason import Reason
from phantom import radiograph
from pipeline.result import Evidence, Measurement, Suggestion
from sr_writer import rejection, write
from sr_writer.considered import Considered
from sr_writer.profiles import Form, Piece
from tests.sr_writer import radiographs
from tests.sr_writer.graded import graded
from tests.sr_writer.matrix import GEOMETRIES, RESULTS, SENDERS, Row, Sender, analyses

SEED, SLICES = 41, 12
SITES = {"lungs", "left_lung", "right_lung"}
"""Of which numbers are given: reports of fewer groups are judged faster."""


@dataclass(frozen=True, eq=False)
class Authored:
    """One object of the matrix.

    Parameters
    ----------
    row : Row
        Which.
    case : Any
        Study on disk and result that it is about.
    artifacts : tuple of write.Artifact
        Its files: one, or a series of pictures.
    segmentation : write.Artifact or None
        What a report refers to.
    """

    row: Row
    case: Any
    artifacts: tuple[write.Artifact, ...]
    segmentation: write.Artifact | None = None

    @cached_property
    def objects(self) -> tuple[pydicom.FileDataset, ...]:
        """The files as they are read; large pixels when they are asked for."""
        return tuple(pydicom.dcmread(a.path, defer_size=1 << 18) for a in self.artifacts)

    @property
    def ds(self) -> pydicom.FileDataset:
        """The object, or the first of the series."""
        return self.objects[0]

    @property
    def radiograph(self) -> bool:
        """Whether it is about one image that has no place in the patient."""
        return GEOMETRIES[self.row.geometry].radiograph

    @property
    def paths(self) -> list[Path]:
        """Its files."""
        return [a.path for a in self.artifacts]

    def __str__(self) -> str:
        return f"{self.row.geometry} / {self.row.sender} / {self.row.kind} / {self.row.outcome}"


class Author:
    """Writes rows of the matrix below a folder; what is common to several is made once."""

    def __init__(self, helpers: Any, folder: Path) -> None:
        self._helpers, self._folder = helpers, folder
        self._cases: dict[tuple[str, str], Any] = {}

    def author(self, rows: Iterable[Row], into: str) -> list[Authored]:
        """Write the objects of `rows` into a folder of their own; those of one analysis together."""
        made = [
            o for n, (_, some) in enumerate(analyses(rows)) for o in self._analysis(some, self._folder / into / str(n))
        ]
        return sorted(made, key=lambda o: o.row)

    def case(self, geometry: str, sender: str) -> Any:
        """Return a study of the geometry as the sender writes names, with its result."""
        key = geometry, sender
        if key not in self._cases:
            folder = self._folder / "studies" / "-".join(key).replace(" ", "_")
            plain = self._plain(geometry)
            (folder / "dicom").mkdir(parents=True)
            for path in sorted((plain / "dicom").iterdir()):
                ds = pydicom.dcmread(path)
                rename(ds, SENDERS[sender])
                ds.save_as(folder / "dicom" / path.name)
            if GEOMETRIES[geometry].radiograph:
                (folder / "truth.npz").symlink_to(plain / "truth.npz")
                self._cases[key] = radiographs.from_folder(folder)
            elif GEOMETRIES[geometry].analysed:
                (folder / "truth.npz").symlink_to(plain / "one.npz")
                self._cases[key] = short(self._helpers.from_folder(folder))
            else:
                self._cases[key] = self._helpers.without_result(folder)
        return self._cases[key]

    def _plain(self, geometry: str) -> Path:
        folder = self._folder / "phantoms" / geometry.replace(" ", "_")
        if not folder.exists():
            scan = GEOMETRIES[geometry]
            if scan.radiograph:
                return radiograph.write(
                    radiograph.expose(radiograph.Exposure(SEED, rows=120, columns=109, **scan.phantom)), folder
                )
            build = phantom.build(SEED, **{"slices": SLICES, "matrix": 64, **scan.phantom})
            made = (phantom.write_enhanced if scan.enhanced else phantom.write)(build, folder)
            truth = np.load(made / "truth.npz")
            largest = np.bincount(truth["lesion"][truth["lesion"] > 0], minlength=1).argmax()
            np.savez(folder / "one.npz", lung=truth["lung"], lesion=truth["lesion"] * (truth["lesion"] == largest))
        return folder

    def _analysis(self, rows: Sequence[Row], out: Path) -> Iterator[Authored]:
        row = rows[0]
        case = self.case(row.geometry, row.sender)
        if row.outcome == "negative":
            case = replace(_retrained(case, "4e"), result=_without_findings(case.result))
        elif row.outcome == "graded":
            case = graded(case)
        notes = [r for r in rows if r.kind == "rejection"]
        for note in notes:
            yield Authored(note, case, (self._rejection(note, case, out / "note"),))
        flat = [r for r in rows if r.kind == "seg labelmap" and r.outcome == "positive"]
        for one in flat:  # segments that overlap are no label map
            alone = replace(_retrained(case, "1f"), result=_only_findings(case.result))
            yield Authored(one, alone, self._write(alone, [_piece(one)], row.outcome, out / "flat"))
        others = [r for r in rows if r not in notes and r not in flat]
        if others:
            pieces = {r: _piece(r) for r in others}
            made = self._write(case, list(pieces.values()), row.outcome, out)
            by_piece = {r: tuple(a for a in made if (a.kind, a.variant) == p.key) for r, p in pieces.items()}
            for r, artifacts in by_piece.items():
                seg = by_piece[r.needs[0]][0] if r.needs else None
                yield Authored(r, case, artifacts, seg)

    def _write(self, case: Any, pieces: Sequence[Piece], outcome: str, out: Path) -> tuple[write.Artifact, ...]:
        if outcome in RESULTS:
            return self._helpers.write(case, out, pieces=pieces)  # type: ignore[no-any-return]
        instances = case.series.instances
        why = self._helpers.reason(
            "too-thick", "The slices are too thick (10.0 mm, limit 6.0 mm).", "层厚过大（10.0 mm，上限 6.0 mm）。"
        )
        seen = [Considered(instances[0].series_instance_uid, why)]
        now, study = self._helpers.now, group(instances)[0]
        return write.write_card(
            why, outcome, study, case.identity, case.options, out, now, considered=seen, pieces=pieces
        )  # type: ignore[arg-type]

    def _rejection(self, row: Row, case: Any, out: Path) -> write.Artifact:
        """Reject the text of another analysis of the study."""
        old = Form("text" if row.outcome in RESULTS else "card_text")
        before = _retrained(case, "0e")
        rejected = [
            write.Predecessor(a.sop_class_uid, a.sop_instance_uid, a.series_instance_uid, a.path)
            for a in self._write(before, [Piece(old)], row.outcome, out)
        ]
        ds = rejection.build(rejected, self._helpers.authorship(case, 2))
        return self._helpers.stored(ds, out, "rejection")  # type: ignore[no-any-return]


def _retrained(case: Any, weights: str) -> Any:
    """Return the same case with other weights, so that its objects are others."""
    return replace(case, identity=replace(case.identity, weights_digest="sha256:" + weights * 32))


def rename(ds: Dataset, sender: Sender) -> None:
    """Put a name into a header by its very bytes."""
    ds.SpecificCharacterSet = sender.charset
    if sender.charset is None:
        del ds.SpecificCharacterSet
    tag, value = Tag("PatientName"), sender.raw + b" " * (len(sender.raw) % 2)
    ds[tag] = RawDataElement(tag, "PN", len(value), value, 0, is_implicit_VR=False, is_little_endian=True)
    ds.set_original_encoding(False, True, convert_encodings(sender.charset or ""))  # or pydicom writes the name anew


def _piece(row: Row) -> Piece:
    return Piece(row.form, tuple(r.form for r in row.needs))


def suggested() -> tuple[Suggestion, ...]:
    """Return suggestions, one with numbers and one that is undetermined."""
    said = {
        "en": "Suggestion (AI, unverified): pattern of pneumonia: undetermined.",
        "zh-CN": "提示（人工智能，未经核实）：肺炎样表现：无法判断。",
    }
    asked = {
        "en": "Suggestion (AI, unverified), for suspected viral pneumonia: CO-RADS 4 (suspicion high).",
        "zh-CN": "提示（人工智能，未经核实；适应证为疑似病毒性肺炎）：CO-RADS 4（怀疑程度高）。",
    }
    why = Reason(
        "pattern-fits-no-rule", "note", {"en": "The measurements fit no rule.", "zh-CN": "测量结果不符合任何规则。"}, {}
    )
    rules = (
        Evidence("peripheral", {"en": "Peripheral", "zh-CN": "外周分布"}, 1.25, "{ratio}", 1.1, "for"),
        Evidence("lobar", {"en": "Lobar", "zh-CN": "大叶性"}, None, "%", 15.0, "unknown"),
    )
    return Suggestion("pneumonia_pattern", "undetermined", said, rules, why), Suggestion("co_rads", "4", asked, rules)


def short(case: Any) -> Any:
    """Return a case without the thirds of the lungs: their groups cost most of the time and say nothing else.

    It has suggestions, and one score that has no value.
    """
    result = case.result
    kept = tuple(r for r in result.regions if r.site in SITES or r.site == "body")
    why = Reason("score-needs-lobes", "note", {"en": "Lobes were not segmented.", "zh-CN": "肺叶未分割。"}, {})
    scores = (
        Measurement("ct_severity_score", "lungs", None, "{score}", "not_computable", why),
        Measurement("aerated_percent", "left_lung", None, "%", "not_computable", why),
    )
    numbers = (*(m for m in result.measurements if m.site in SITES), *scores)
    return replace(case, result=replace(result, regions=kept, measurements=numbers, suggestions=suggested()))


def _without_findings(result: Any) -> Any:
    """Return the same result with nothing found."""
    shown = {f.segment_number for f in result.findings}
    nothing = [
        replace(m, value=0.0) if m.name.startswith(("opacity", "ground_glass")) else m for m in result.measurements
    ]
    return replace(
        result, findings=(), measurements=tuple(nothing), summary={},
        segments=tuple(s for s in result.segments if s.number not in shown),
    )  # fmt: skip


def _only_findings(result: Any) -> Any:
    """Return the same result without the lungs that hold the findings: no two segments overlap."""
    numbers = {f.segment_number: n for n, f in enumerate(result.findings, start=1)}
    return replace(
        result,
        segments=tuple(replace(s, number=numbers[s.number]) for s in result.segments if s.number in numbers),
        findings=tuple(replace(f, segment_number=numbers[f.segment_number]) for f in result.findings),
    )
