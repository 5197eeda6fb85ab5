"""``pacs-ai-node phantom``: a chest CT, or a radiograph, whose truth is known."""

from pathlib import Path
from typing import Literal

import click

from node.cli.common import common_options, print_json


@click.command(name="phantom")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for dicom/, truth.npz and truth.json."
)
@click.option("--seed", default=1, show_default=True, help="Patient, lesions, noise and all UIDs follow from it.")
@click.option(
    "--lesions", type=click.Choice(["none", "standard", "clear"]), default="standard", show_default=True,
    help="clear: every opacity stays away from the chest wall.",
)  # fmt: skip
@click.option(
    "--plane", type=click.Choice(["axial", "coronal", "sagittal", "oblique"]), default="axial", show_default=True
)
@click.option("--thickness", type=float, help="Slice thickness in mm.  [default: 2.5]")
@click.option("--slices", type=click.IntRange(1), help="Number of slices.  [default: what covers both lungs]")
@click.option("--matrix", type=click.IntRange(16, 1024), default=256, show_default=True, help="Rows and columns.")
@click.option("--enhanced", is_flag=True, help="All slices as frames of one enhanced CT image.")
@click.option("--radiograph", type=click.Choice(["dx", "cr"]), help="Write one radiograph of the chest in its place.")
@click.option("--view", type=click.Choice(["PA", "AP"]), default="PA", show_default=True, help="Of a radiograph.")
@click.option("--patient-name", default="Phantom^Chest", show_default=True, help="In any script.")
@common_options
def command(
    out: Path,
    seed: int,
    lesions: Literal["none", "standard", "clear"],
    plane: Literal["axial", "coronal", "sagittal", "oblique"],
    thickness: float | None,
    slices: int | None,
    matrix: int,
    radiograph: Literal["dx", "cr"] | None,
    view: Literal["PA", "AP"],
    patient_name: str,
    config_file: Path | None,
    *,
    enhanced: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Write a chest CT, or a radiograph, with known truth as DICOM."""
    import phantom
    from phantom import radiograph as projection

    del config_file, verbose
    made: phantom.Phantom | projection.Radiograph
    if enhanced and radiograph is not None:
        raise click.UsageError("--enhanced is a form of CT: leave it out, or --radiograph.")
    try:
        if radiograph is None:
            made = phantom.build(
                seed, lesions=lesions, plane=plane, thickness_mm=thickness, slices=slices, matrix=matrix,
                patient_name=patient_name,
            )  # fmt: skip
            (phantom.write_enhanced if enhanced else phantom.write)(made, out)
        else:
            charset = "" if patient_name.isascii() else "ISO_IR 192"
            modality: Literal["DX", "CR"] = "DX" if radiograph == "dx" else "CR"
            made = projection.expose(
                projection.Exposure(
                    seed,
                    lesions,
                    modality,
                    view,
                    rows=matrix,
                    columns=matrix,
                    patient_name=patient_name,
                    charset=charset,
                )
            )
            projection.write(made, out)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"{out}: {error.strerror}. Name a folder with --out that can be written.") from error
    if as_json:
        print_json(made.truth_document())
    elif not quiet:
        click.echo(
            f"{out}/dicom: {len(list((out / 'dicom').iterdir()))} files; truth in truth.npz and truth.json", err=True
        )
    return 0
