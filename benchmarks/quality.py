"""Image quality: real images are degraded as ``quality_defects.toml`` says, and the quality pipelines judge them.

    python -m benchmarks.quality [--data DIR] [--only radiograph|ct] [--side tuned|figures] [--jobs N] [--limit N] [--draw N] [--out DIR]
    python -m benchmarks.quality --looked-at        # does a person agree with every alarm on a clean image?

Every image, clean or degraded, is written as DICOM and comes in through the door that the node uses. Recognised is a defect
of which an alarm (grade C or D) speaks that names it (``quality_answers.toml``), at default limits. Figures are those of
patients on whom nothing was tuned or trained (`--side figures`, the default). Writes ``table.md``, ``figures.json``,
``records.json`` and one contact sheet for each defect into DIR; what was measured is kept, so that a change of limits alone
is judged in seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks import quality_cases, quality_cases_ct, quality_sheet, quality_table
from benchmarks.quality_cases import Subject
from benchmarks.quality_degrade import margins
from benchmarks.quality_run import ROOT, Record, look_clean, run

LOOKED_AT = Path(__file__).parent / "quality_looked_at.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("PACS_AI_NODE_TEST_DATA"), help="folder of real images"
    )
    parser.add_argument("--only", choices=("radiograph", "dicom", "ct"), help="dicom: radiographs of 10 to 16 bit")
    parser.add_argument("--side", choices=("figures", "tuned"), default="figures")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=int, help="so many patients of each source at most")
    parser.add_argument("--draw", type=int, help="so many, drawn, of the defects that every radiograph can have")
    parser.add_argument(
        "--seconds", type=float, help="begin no image after so long; the order follows from names alone"
    )
    parser.add_argument("--out", type=Path, default=Path("quality"))
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "pacs-ai-node-quality")
    parser.add_argument("--looked-at", action="store_true")
    parser.add_argument("--no-sheets", action="store_true")
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("name the folder of images: --data, or PACS_AI_NODE_TEST_DATA")
    if asked.looked_at:
        sys.exit(looked_at(asked.data, asked.jobs))
    subjects = chosen(asked.data, asked.only, tuned=asked.side == "tuned", limit=asked.limit)
    records = run(subjects, asked.data, asked.kept, asked.jobs, asked.draw, asked.seconds)
    masks = drawn_margins(subjects, asked.data)
    made = quality_table.figures(records, masks)
    if masks:
        made["really_cut"] = quality_table.really_cut(records, masks)
    command = f"python -m benchmarks.quality {' '.join(_said(sys.argv[1:]))}".strip()
    text = f"    {command}\n\nCommit {commit()}.\n\n{quality_table.markdown(made)}"
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "table.md").write_text(text, encoding="utf-8")
    _json(asked.out / "figures.json", {"command": command, "commit": commit(), **made})
    _json(asked.out / "records.json", [asdict(r) for r in records])
    print(text)
    if not asked.no_sheets:
        quality_sheet.write(subjects, records, asked.data, asked.out)
    for line in made["crashed"]:
        print(f"BROKEN {line}", file=sys.stderr)
    sys.exit(1 if made["crashed"] else 0)


def _said(arguments: list[str]) -> list[str]:
    """Return the command's arguments without folders and numbers of processes, which change no figure."""
    out, skip = [], False
    for word in arguments:
        if skip or word in {"--data", "--out", "--kept", "--jobs", "--no-sheets"}:
            skip = not skip and word != "--no-sheets"
            continue
        out.append(word)
    return out


def commit() -> str:
    """Return the commit, with a + if files differ from it."""
    name = subprocess.run(("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(("git", "status", "--porcelain"), cwd=ROOT, capture_output=True, text=True, check=True)
    return name.stdout.strip() + "+" * bool(changed.stdout.strip())


def _json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def everything(data: Path, only: str | None) -> list[Subject]:
    """Return all subjects."""
    found: list[Subject] = [] if only == "ct" else list(quality_cases.radiographs(data))
    if only == "dicom":
        return [s for s in found if s.kind == "raw"]
    return found + ([] if only == "radiograph" else list(quality_cases_ct.series()))


def chosen(data: Path, only: str | None, *, tuned: bool, limit: int | None) -> list[Subject]:
    """Return the subjects of one side; of each source so many patients, drawn by their names alone."""
    out: list[Subject] = []
    people: dict[str, list[str]] = {}
    for subject in sorted(everything(data, only), key=lambda s: s.rng("order").random()):
        if subject.tuned != tuned:
            continue
        known = people.setdefault(f"{subject.kind}/{subject.source}", [])
        if subject.patient not in known and (limit is None or len(known) < limit):
            known.append(subject.patient)
        if subject.patient in known:
            out.append(subject)
    return sorted(out, key=lambda s: (s.kind, s.source, s.patient, s.name))


def drawn_margins(subjects: list[Subject], data: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return how many millimetres lie between the drawn lungs and each border, where lungs are drawn."""
    out = {}
    for subject in subjects:
        if subject.kind == "radiograph" and len(subject.files) > 1:
            lungs = quality_cases.mask(data / subject.files[1])
            mm = quality_cases.LONGER_MM / max(lungs.shape)
            out[subject.source, subject.name] = {side: n * mm for side, n in margins(lungs).items()}
    return out


def looked_at(data: Path, jobs: int) -> int:
    """Check that a person has looked at every clean image with an alarm, and agrees; return the exit code."""
    subjects = [s for s in everything(data, None) if s.kind in {"radiograph", "ct"} and s.source != "phantom"]
    clean = look_clean(subjects, data, jobs)
    listed = tomllib.loads(LOOKED_AT.read_text(encoding="utf-8")) if LOOKED_AT.is_file() else {}
    rows = {row.get("file") or row.get("series"): row for kind in ("radiograph", "ct") for row in listed.get(kind, [])}
    faults = list(_faults(subjects, clean, rows))
    alarms, disagreed = sum(bool(r.alarms) for r in clean), sum(not row["agreed"] for row in rows.values())
    print("\n".join(faults))
    print(
        f"{len(clean)} clean images, {alarms} with an alarm, {len(rows)} listed ({disagreed} not agreed), {len(faults)} not listed so"
    )
    return 1 if faults else 0


def _faults(
    subjects: Iterable[Subject], clean: Iterable[Record], rows: dict[str, dict[str, list[str]]]
) -> Iterable[str]:
    files = {(s.kind, s.source, s.name): s.files[0] for s in subjects}
    for record in clean:
        file = files[record.kind, record.source, record.image]
        if lacking := record.alarms - set(rows.get(file, {}).get("alarms", [])):
            yield f"{file}: {', '.join(sorted(lacking))} is not among what was looked at"


if __name__ == "__main__":
    main()
