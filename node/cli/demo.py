"""``pacs-ai-node demo``: the main job on a machine with nothing else."""

from pathlib import Path
from typing import Any

import click

from node.cli.common import common_options, print_json

_TIMEOUT_S = 300.0
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LUNG, _RIGHT = "39607008", "24028007"  # SCT


@click.command(name="demo")
@click.option(
    "--out", default="demo", show_default=True, type=click.Path(path_type=Path), help="Folder for everything."
)
@click.option("--seed", default=1, show_default=True, help="Which phantom.")
@common_options
def command(out: Path, seed: int, config_file: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Start the node and a small PACS on this machine, send a chest CT phantom, show what came back beside the truth.

    A second run sends the same study again and shows that nothing is delivered twice. Exit code 0 only if what came back
    agrees with the phantom's truth.
    """
    from rich.console import Console

    from node.rehearsal import RehearsalError

    del config_file, verbose
    console = Console(stderr=True, quiet=quiet)
    try:
        report = _run(out, seed, console)
    except RehearsalError as error:
        console.print(f"[red]{error}")
        report = {"schema": "pacs-ai-node/demo/1", "ok": False, "error": {"text": str(error)}}
    except OSError as error:
        raise click.UsageError(f"{out}: {error.strerror}. Name a folder with --out that can be written.") from error
    if as_json:
        print_json(report)
    return 0 if report["ok"] else 1


def _run(out: Path, seed: int, console: Any) -> dict[str, Any]:  # noqa: ANN401 - rich is imported late
    import json
    import time

    from node.rehearsal import Rehearsal, RehearsalError

    folder = out / f"phantom-{seed}"
    files, truth = _phantom(folder, seed, console)
    study, sources = truth["study_instance_uid"], truth["sop_instance_uids"]
    with Rehearsal(out) as both:
        assert both.ready is not None  # noqa: S101 - the context manager started it
        console.print(f"PACS on port {both.pacs.port}, node on port {both.ready.port} (log: {out / 'node.log'})")
        before = both.results(sources)
        here = {r.sop_instance_uid for r in both.pacs.received}
        both.archive([f for f, uid in zip(files, sources, strict=True) if uid not in here])
        begin = time.monotonic()
        both.push(files)
        console.print(f"{len(files)} slices sent and acknowledged in {time.monotonic() - begin:.1f} s")
        shown = _follow(both, study, console)
        took = time.monotonic() - begin
        after = both.results(sources)
    (out / "show.json").write_text(json.dumps(shown, ensure_ascii=False, indent=1), encoding="utf-8")
    mine = [r for r in after if r.study_instance_uid == study]
    if not mine:
        raise RehearsalError(f"nothing came back to the PACS: see {out / 'show.json'} and {out / 'node.log'}")
    twice = len(after) - len({r.sop_instance_uid for r in after})
    pictures = _pictures(mine, out / "pictures")
    comparison = _compare(mine, folder, shown)
    again = bool([r for r in before if r.study_instance_uid == study])
    report = {
        "schema": "pacs-ai-node/demo/1",
        "ok": comparison.ok and not twice and not (again and len(after) > len(before)),
        "seed": seed,
        "study_instance_uid": study,
        "first_run": not again,
        "sent_now": len(after) - len(before),
        "sent_twice": twice,
        "seconds_from_first_image_to_results": None if again else round(took, 2),
        "objects": sorted({r.path.name for r in mine}),
        "pictures": [str(p.relative_to(out)) for p in pictures],
        "comparison": comparison.as_json(),
    }
    (out / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    _tell(report, comparison, pictures, took, console)
    return report


def _phantom(folder: Path, seed: int, console: Any) -> tuple[list[Path], dict[str, Any]]:  # noqa: ANN401
    """Build the phantom unless it stands there already; return its files and which UIDs they hold."""
    import phantom
    from dicom_io.read import read_instance

    if not (folder / "truth.json").exists():
        with console.status(f"building phantom {seed}"):
            phantom.write(phantom.build(seed), folder)
    files = sorted((folder / "dicom").glob("*.dcm"))
    instances = [read_instance(f) for f in files]
    return files, {
        "study_instance_uid": instances[0].study_instance_uid,
        "sop_instance_uids": [i.sop_instance_uid for i in instances],
    }


def _follow(both: Any, study: str, console: Any) -> dict[str, Any]:  # noqa: ANN401
    """Wait until the node has nothing left to do, telling what it does; return its ``show`` document."""
    with console.status("waiting for the node") as status:

        def told(document: dict[str, Any]) -> None:
            jobs, deliveries = document["jobs"], document["deliveries"]
            status.update(
                f"studies open {document['studies']['open']}; jobs waiting {jobs['waiting']}, running {jobs['running']}; "
                f"deliveries {', '.join(f'{k} {v}' for k, v in deliveries.items() if v) or 'none'}"
            )

        both.wait(lambda d: bool(d["idle"]) and bool(d["studies"]["closed"]), "status", timeout_s=_TIMEOUT_S, told=told)
        shown: dict[str, Any] = both.ask("show", study)
    return shown


def _pictures(received: list[Any], folder: Path) -> list[Path]:
    """Write the summary pictures that the PACS holds as PNG."""
    from PIL import Image
    from pydicom import dcmread

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for item in received:
        ds = dcmread(item.path)
        if "PhotometricInterpretation" in ds and ds.PhotometricInterpretation == "RGB":
            written.append(folder / f"{ds.SOPInstanceUID}.png")
            Image.fromarray(ds.pixel_array).save(written[-1])
    return written


def _compare(received: list[Any], folder: Path, shown: dict[str, Any]) -> Any:  # noqa: ANN401
    """Compare the segmentation that the PACS holds with the truth."""
    from node.rehearsal import RehearsalError
    from phantom.compare import compare

    found = {r.sop_instance_uid: r.path for r in received if r.sop_class_uid == _SEGMENTATION}
    if len(found) != 1:
        raise RehearsalError(f"the PACS holds {len(found)} segmentations of the study, not one: see show.json")
    lungs, lesions = _masks(next(iter(found.values())), folder)
    measurements = [m for job in shown["jobs"] for m in job["measurements"] if m["name"] == "opacity_percent"]
    withheld = any(m["status"] == "not_computable" for m in measurements)
    return compare(folder, lungs, lesions, withheld=withheld)


def _masks(path: Path, folder: Path) -> tuple[Any, list[tuple[str, Any]]]:
    """Return the lungs of a segmentation (1 right, 2 left) and its lesions, on the phantom's grid [z, y, x]."""
    import numpy as np
    from pydicom import dcmread

    from dicom_io.read import read_instance
    from dicom_io.stack import build_stack
    from sr_writer.gate_frames import frames_of

    stack = build_stack([read_instance(f) for f in sorted((folder / "dicom").glob("*.dcm"))])
    place = {i.key: z for z, i in enumerate(stack.instances)}
    ds = dcmread(path)
    frames = frames_of(ds)
    masks = {int(s.SegmentNumber): np.zeros((len(place), *frames.shape), bool) for s in ds.SegmentSequence}
    for (number, uid), runs in frames.runs.items():
        masks[number][place[uid]] = runs.plane()
    lungs = np.zeros((len(place), *frames.shape), np.uint8)
    lesions = []
    for segment in ds.SegmentSequence:
        kind, mask = segment.SegmentedPropertyTypeCodeSequence[0], masks[int(segment.SegmentNumber)]
        if kind.CodeValue == _LUNG:
            side = kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue
            lungs[mask] = 1 if side == _RIGHT else 2
        else:
            lesions.append((str(segment.TrackingID), mask))
    return lungs, lesions


def _tell(report: dict[str, Any], comparison: Any, pictures: list[Path], took: float, console: Any) -> None:  # noqa: ANN401
    from rich.table import Table

    table = Table("planted", "cm3", "found cm3", "how well", "", title="What came back to the PACS, beside the truth")
    for row in comparison.rows():
        table.add_row(*row)
    console.print(table)
    if report["first_run"]:
        console.print(
            f"{report['sent_now']} objects arrived {took:.1f} s after the first image; run again: nothing is sent twice."
        )
    else:
        console.print(f"The same study was sent again: {report['sent_now']} new objects at the PACS.")
    for picture in pictures:
        console.print(f"Look at {picture}")
    console.print("[green]as it should be" if report["ok"] else "[red]NOT as it should be: see report.json")
