"""The figures of the benchmark of image quality: per defect, and of clean images."""

import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from benchmarks.quality_cases import DEFECTS
from benchmarks.quality_run import Record

ANSWERS = tomllib.loads((Path(__file__).parent / "quality_answers.toml").read_text(encoding="utf-8"))
OWN_TILT: dict[str, float] = tomllib.loads(
    (Path(__file__).parent / "quality_own_tilt.toml").read_text(encoding="utf-8")
)["degrees"]
"""How far patients lean as they came, by file; measured by hand."""
UPRIGHT_DEG = 5.0
TILTED_DEG = 7.5
SEEN = tomllib.loads((Path(__file__).parent / "quality_not_clean.toml").read_text(encoding="utf-8"))["radiograph"]
NOT_CLEAN = {row["file"] for row in SEEN} | {file for file, deg in OWN_TILT.items() if abs(deg) > UPRIGHT_DEG}
"""Files of radiographs that by eye, no alarm known, were found cut or tilted as they came."""
FLOOR = 0.90
FEW = 20
HARMLESS = {row["name"] for row in DEFECTS["ct"]["defect"] if row.get("harmless")}
GROUPS: tuple[tuple[str, str, Callable[[Record], bool]], ...] = (
    ("radiograph", "Radiographs: 8-bit copies", lambda r: r.kind in {"radiograph", "other"}),
    ("radiograph", "Radiographs of 10 to 16 bit, real", lambda r: r.kind == "raw" and r.source == "dicom"),
    ("radiograph", "Radiographs of 10 to 14 bit, phantoms", lambda r: r.kind == "raw" and r.source == "phantom"),
    ("ct", "CT: real chests, and what is no chest", lambda r: (r.kind == "ct" and r.source == "real") or r.kind == "not-chest"),
    ("ct", "CT: fragment of 18 slices of a real chest", lambda r: r.kind == "ct" and r.source == "fragment"),
    ("ct", "CT: phantoms", lambda r: r.kind == "ct" and r.source == "phantom"),
)  # fmt: skip


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson, J Am Stat Assoc 22 (1927) 209)."""
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def auc(bad: npt.NDArray[np.float64], good: npt.NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: how often a degraded image has the larger value, ties by half."""
    ranks = rankdata(np.concatenate([bad, good]))[: bad.size].sum()
    return float((ranks - bad.size * (bad.size + 1) / 2) / (bad.size * good.size))


def auc_interval(bad: list[tuple[str, float]], good: list[tuple[str, float]], rounds: int = 500) -> tuple[float, float]:
    """Return the 95 % interval of the area: a bootstrap that draws patients, with all their images."""
    people = sorted({p for p, _ in bad} | {p for p, _ in good})
    of = {p: n for n, p in enumerate(people)}
    rng, found = np.random.default_rng(1), []
    values = [np.array([v for _, v in side]) for side in (bad, good)]
    owner = [np.array([of[p] for p, _ in side]) for side in (bad, good)]
    for _ in range(rounds):
        weight = np.bincount(rng.integers(0, len(people), len(people)), minlength=len(people))
        drawn = [np.repeat(v, weight[o]) for v, o in zip(values, owner, strict=True)]
        if drawn[0].size and drawn[1].size:
            found.append(auc(drawn[0], drawn[1]))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def answered(record: Record, codes: Sequence[str], *, alarm: bool) -> bool:
    """Whether one of `codes` was said of an image; a refusal as not applicable answers where the defect is another subject."""
    if record.defect == "non-chest" and record.refused and record.refused[1] == "not_applicable":
        return True
    return bool((record.alarms if alarm else set(record.codes)) & set(codes))


def file(record: Record) -> str:
    """Return the file of a radiograph, below the data folder."""
    return f"cxr/{record.source}/{record.image}.jpg"


Free = dict[tuple[str, str], dict[str, float]]
"""Source and image to the millimetres between the drawn lungs and each border."""
NEAR_MM = 3.0


def figures(records: Sequence[Record], masks: Free | None = None) -> dict[str, Any]:
    """Return all figures: ``groups`` with their defects, and ``clean``; `masks` say which clean images are none."""
    groups: list[dict[str, Any]] = []
    extra: dict[str, Any] = {}
    for kind, title, member in GROUPS:
        mine = [r for r in records if member(r)]
        if mine:
            names = list(
                dict.fromkeys(r.defect for r in mine if not r.defect.startswith("clean") and r.defect not in HARMLESS)
            )
            groups.append({"title": title, "defects": [defect(mine, kind, n) for n in names]})
    if tilted := [
        r for r in records if r.defect == "tilt" and abs(OWN_TILT.get(file(r), 0) + float(r.detail)) >= TILTED_DEG
    ]:
        hits = sum(answered(r, ANSWERS["radiograph"]["tilt"]["codes"], alarm=True) for r in tilted)
        extra["really_tilted"] = [hits, len(tilted)]
    return {
        "groups": groups,
        **extra,
        "clean": clean(records, masks or {}),
        "harmless": harmless(records),
        "crashed": crashed(records),
    }


def defect(records: Sequence[Record], kind: str, name: str) -> dict[str, Any]:
    """Return the figures of one defect among the images of one group."""
    answer = ANSWERS[kind][name]
    bad = [r for r in records if r.defect == name]
    unable = Counter(r.refused[0] for r in bad if r.refused and r.refused[1] == "unable")
    if name == "non-chest":  # too short or too small to be anything: the refusal is right, and no answer
        bad = [r for r in bad if not (r.refused and r.refused[1] == "unable")] or bad
    beside = {(r.source, r.image): r for r in records if r.defect == "clean"}
    beside |= {(r.source, r.image): r for r in records if r.defect == "clean-tilt" and name == "tilt"}
    good = list(beside.values()) if name == "non-chest" else [
        beside[key] for key in dict.fromkeys((r.source, r.image) for r in bad) if key in beside
    ]  # fmt: skip
    values = [
        [(f"{r.source}/{r.patient}", answer["sign"] * r.measures[answer["measure"]]) for r in side if answer["measure"] in r.measures]
        for side in (bad, good)
    ]  # fmt: skip
    hits = sum(answered(r, answer["codes"], alarm=True) for r in bad)
    out: dict[str, Any] = {
        "name": name, "images": len(bad), "patients": len({(r.source, r.patient) for r in bad}),
        "recognised": hits / len(bad), "recognised_95": wilson(hits, len(bad)),
        "named": sum(answered(r, answer["codes"], alarm=False) for r in bad) / len(bad),
        "false": sum(answered(r, answer["codes"], alarm=True) for r in good) / max(len(good), 1), "clean": len(good),
        "measured": len(values[0]),
        "unable": dict(unable),
        "sources": {},
    }  # fmt: skip
    if values[0] and values[1]:
        out["auc"] = auc(*(np.array([v for _, v in side]) for side in values))
        out["auc_95"] = auc_interval(*values) if out["patients"] > 1 else None
    for source in sorted({r.source for r in bad}):
        here = [r for r in bad if r.source == source]
        out["sources"][source] = [sum(answered(r, answer["codes"], alarm=True) for r in here), len(here)]
    return out


def clean(records: Sequence[Record], masks: Free) -> list[dict[str, Any]]:
    """Return, for each source, how many clean images draw an alarm, and which, and how many are refused.

    ``found_clean`` counts those alone on which no border was found cut by eye, no drawn lung within `NEAR_MM` of a border, and
    a spine within `UPRIGHT_DEG` of upright.
    """
    out = []
    every = [r for r in records if r.defect == "clean"]
    parts = {
        " ".join(key): [r for r in every if (r.kind, r.source) == key]
        for key in dict.fromkeys((r.kind, r.source) for r in every)
    }
    copies = [r for r in every if r.kind == "radiograph"]
    parts |= {"**all copies**": copies} if copies else {}
    for source, mine in parts.items():
        hits = sum(bool(r.alarms) for r in mine)
        found_clean = [
            r for r in mine if r.kind == "radiograph" and file(r) not in NOT_CLEAN and free_mm(r, masks) > NEAR_MM
        ]
        out.append({
            "source": source, "images": len(mine), "patients": len({(r.source, r.patient) for r in mine}), "alarm": hits,
            "alarm_95": wilson(hits, len(mine)), "codes": dict(Counter(c for r in mine for c in r.alarms).most_common()),
            "refused": dict(Counter(r.refused[0] for r in mine if r.refused)),
            "found_clean": [sum(bool(r.alarms) for r in found_clean), len(found_clean)],
            "grades": dict(sorted(Counter(r.grade or "refused" for r in mine).items())),
            "not_evaluated": dict(Counter(c for r in mine for c in r.not_evaluated).most_common()),
        })  # fmt: skip
    return out


def free_mm(record: Record, masks: Free) -> float:
    """Return the least distance between the drawn lungs and a border; infinite where none are drawn."""
    return min(masks.get((record.source, record.image), {"": np.inf}).values())


def really_cut(records: Sequence[Record], masks: Free, near_mm: float = NEAR_MM) -> str:
    """Return a sentence about alarms of cut borders on clean images: where do the drawn lungs end."""
    told, true = 0, 0
    for record in records:
        if record.defect != "clean" or (record.source, record.image) not in masks:
            continue
        free = masks[record.source, record.image]
        for side, mm in free.items():
            said = record.alarms & set(ANSWERS["radiograph"][f"cut-{side}"]["codes"])
            told, true = told + bool(said), true + bool(said and mm <= near_mm)
    return (
        f"Cut borders on clean images with drawn lungs ({len(masks)} images): {told} alarms; on {true} of these borders the drawn "
        f"lungs end {near_mm:g} mm or less from it."
    )


def harmless(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return how many images that were changed without harm draw an alarm that the clean one does not."""
    beside = {(r.kind, r.source, r.image): r.alarms for r in records if r.defect == "clean"}
    mine = [r for r in records if r.defect in HARMLESS]
    return [
        {
            "name": name,
            "images": len(these),
            "new alarms": sum(bool(r.alarms - beside[r.kind, r.source, r.image]) for r in these),
        }
        for name in sorted({r.defect for r in mine})
        for these in [[r for r in mine if r.defect == name]]
    ]


def crashed(records: Sequence[Record]) -> list[str]:
    """Return what broke."""
    return [f"{r.kind} {r.source} {r.image} {r.defect}: {r.crashed}" for r in records if r.crashed]


def _share(hits: float, low: float, high: float) -> str:
    return f"{hits:.3f} ({low:.2f} to {high:.2f})"


def remark(row: dict[str, Any]) -> str:
    """Return what a reader must know of a row."""
    if not row["measured"] and not row["recognised"] and not row["unable"]:
        return "**not evaluated**: nothing was measured"
    said = ["**weak**"] * (row["recognised"] < FLOOR) + ["few patients"] * (row["patients"] < FEW)
    said += [f"not judged: {', '.join(f'{code} {n}' for code, n in row['unable'].items())}"] if row["unable"] else []
    return ", ".join(said)


def markdown(made: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = []
    for group in made["groups"]:
        lines += [f"**{group['title']}**", ""]
        lines += [
            "| defect | images (patients) | ROC AUC (95 %) | recognised (95 %) | named at any grade | same alarm on clean | by source | |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for row in group["defects"]:
            area = f"{row['auc']:.3f}" if "auc" in row else "-"
            area += f" ({row['auc_95'][0]:.2f} to {row['auc_95'][1]:.2f})" if row.get("auc_95") else ""
            sources = ", ".join(f"{s} {h}/{n}" for s, (h, n) in row["sources"].items())
            cells = (
                row["name"], f"{row['images']} ({row['patients']})", area, _share(row["recognised"], *row["recognised_95"]),
                f"{row['named']:.3f}", f"{row['false']:.3f} of {row['clean']}", sources, remark(row),
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += [
        "**Clean images**",
        "",
        "| source | images (patients) | any alarm (95 %) | of those found clean by eye | by | grades | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in made["clean"]:
        listed = [", ".join(f"{k} {v}" for k, v in row[what].items()) for what in ("codes", "grades", "refused")]
        share = _share(row["alarm"] / row["images"], *row["alarm_95"])
        told, seen = row["found_clean"]
        beside = _share(told / seen, *wilson(told, seen)) if seen else ""
        lines.append(
            f"| {row['source']} | {row['images']} ({row['patients']}) | {share} | {beside} | {' | '.join(listed)} |"
        )
    for row in made["harmless"]:
        lines += [
            "",
            f"{row['name']} (no defect): {row['new alarms']} of {row['images']} draw an alarm that the clean one does not.",
        ]
    if "really_tilted" in made:
        hits, of = made["really_tilted"]
        lines += [
            "",
            f"Tilted by {TILTED_DEG:g} degrees or more when what the patient leaned before is counted: {hits} of {of} recognised.",
        ]
    lines += ["", *([made["really_cut"], ""] if made.get("really_cut") else []), f"Broken: {len(made['crashed'])}."]
    return "\n".join(lines) + "\n"
