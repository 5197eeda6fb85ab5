"""Contact sheets of the benchmark of image quality: clean, degraded, what was said - so that a person sees what was done."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks import quality_cases, quality_cases_ct
from benchmarks.quality_cases import Subject
from benchmarks.quality_degrade_ct import Scan
from benchmarks.quality_run import Record
from dicom_io.radiograph import inverse

SIZE = 260
ROWS = 6


def write(subjects: Sequence[Subject], records: Sequence[Record], data: Path, out: Path) -> None:
    """Write one sheet for each defect of radiographs and of CT: a few images each, the unrecognised ones among them."""
    said = {(r.kind, r.source, r.image, r.defect, r.detail): r for r in records}
    sheets: dict[str, list[Image.Image]] = {}
    taken: dict[tuple[str, str], int] = {}
    for subject in sorted(
        subjects, key=lambda s: (s.kind == "radiograph" and len(s.files) < 2, s.rng("sheet").random())
    ):
        if taken.get((subject.kind, subject.source), 0) >= 2 or subject.kind == "not-chest":
            continue
        taken[subject.kind, subject.source] = taken.get((subject.kind, subject.source), 0) + (
            subject.kind != "other" or 0
        )
        for defect, detail, before, after in _pictures(subject, data):
            name = f"{'ct' if subject.kind == 'ct' else 'radiograph'}-{defect}"
            record = said.get((subject.kind, subject.source, subject.name, defect, detail))
            if record is not None and len(sheets.setdefault(name, [])) < ROWS:
                sheets[name].append(_row(before, after, record))
    for name, rows in sheets.items():
        sheet = Image.new("L", (max(r.width for r in rows), sum(r.height for r in rows)))
        for n, row in enumerate(rows):
            sheet.paste(row, (0, sum(r.height for r in rows[:n])))
        sheet.save(out / f"{name}.png")


def _pictures(subject: Subject, data: Path) -> list[tuple[str, str, npt.NDArray[Any], npt.NDArray[Any]]]:
    if subject.kind == "ct":
        clean = quality_cases_ct.acquire(subject, data)
        made = list(quality_cases_ct.with_clean(subject, clean))
        return [(name, "", _planes(made[0][1]), _planes(scan)) for name, scan in made[1:]]
    variants = list(quality_cases.variants(subject, data))
    shown = [_grey(v) for v in variants]
    return [
        (v.defect, v.detail, shown[0], s)
        for v, s in zip(variants, shown, strict=True)
        if not v.defect.startswith("clean")
    ]


def _grey(variant: quality_cases.Variant) -> npt.NDArray[Any]:
    if variant.header is None:
        return variant.image
    top = float(variant.image.max()) or 1.0
    return 1 - variant.image / top if inverse(variant.header) else variant.image / top


def _planes(scan: Scan) -> npt.NDArray[Any]:
    """Return an axial, a coronal and a sagittal slice through the middle, upright and of even scale."""
    z, y, x = (n // 2 for n in scan.array.shape)
    tall = scan.step_mm / scan.pixel_mm
    views = [scan.array[z], scan.array[::-1, y], scan.array[::-1, :, x]]
    made = []
    for n, view in enumerate(views):
        grey = Image.fromarray((np.clip((view.astype(np.float32) + 1000) / 1300, 0, 1) * 255).astype(np.uint8))
        height = grey.height * (tall if n else 1)
        made.append(np.asarray(grey.resize((round(SIZE * grey.width / height) or 1, SIZE)), np.float32) / 255)
    return np.hstack(made)


def _row(before: npt.NDArray[Any], after: npt.NDArray[Any], record: Record) -> Image.Image:
    tiles = []
    for picture in (before, after):
        tile = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
        scale = SIZE / max(tile.height, 1)
        tiles.append(tile.resize((max(1, round(tile.width * scale)), SIZE)))
    lines = [
        record.source,
        record.image,
        f"grade {record.grade or '-'}",
        *(f"{g} {c}" for c, g in record.codes.items()),
    ]
    lines += [f"refused: {record.refused[0]}"] if record.refused else []
    width = tiles[0].width + tiles[1].width + 230
    row = Image.new("L", (width, SIZE + 4))
    row.paste(tiles[0], (0, 0))
    row.paste(tiles[1], (tiles[0].width + 4, 0))
    ImageDraw.Draw(row).multiline_text((width - 222, 6), "\n".join(lines), fill=255)
    return row
