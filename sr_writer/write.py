"""Writing a result, or the statement that there is none, as DICOM objects into a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from dicom_io.files import make_folders
from dicom_io.model import Series, Study
from dicom_io.read import digest_dataset
from dicom_io.reason import Reason
from dicom_io.volume import Volume
from pipeline.result import Result
from sr_writer import card, sc, seg, sr, summary
from sr_writer.considered import Considered, card_variant
from sr_writer.files import publish, write_dicom
from sr_writer.header import Authorship
from sr_writer.identity import AnalysisIdentity
from sr_writer.options import WriterOptions
from sr_writer.sources import Sources

Kind = Literal["seg", "sr", "sc", "card"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One DICOM object that was authored here.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Its name in the output folder, for example ``seg.dcm``.
    kind : Kind
        What it is.
    modality, sop_class_uid, sop_instance_uid, series_instance_uid : str
        As in the object.
    bytes : int
        Size of the file.
    digest : str
        SHA-256 (hex) of the encoded data set after the file meta information.
    """

    path: Path
    name: str
    kind: Kind
    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An object of an earlier revision that the new one follows; only reports are named in the report.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, series_instance_uid : str
        As in the object.
    path : Path or None
        Its file, from which what is found again is known; it need not be there.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: Path | None = None


def write_result(  # noqa: PLR0917 - everything that an analysis hands over
    result: Result,
    volume: Volume,
    series: Series,
    identity: AnalysisIdentity,
    options: WriterOptions,
    out: Path,
    now: datetime,
    revision: int = 1,
    predecessors: Sequence[Predecessor] = (),
    tracks: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Artifact, ...]:
    """Write ``seg.dcm`` (if there is a segment), ``sr.dcm``, ``sc.dcm`` and ``preview.png`` into `out`.

    Parameters
    ----------
    result : Result
        What the pipeline said.
    volume : Volume
        What it was computed from, for the picture.
    series : Series
        The instances that were used; one for every slice of the result.
    identity : AnalysisIdentity
        Decides every UID.
    options : WriterOptions
        How to write.
    out : Path
        Folder; made if it is not there. Objects that already stand in it keep their bytes.
    now : datetime
        The one clock reading that every time in the objects comes from.
    revision : int
        Revision of the study, from 1.
    predecessors : Sequence[Predecessor]
        Objects of the revision before.
    tracks : Mapping[str, str]
        Tracking UIDs of what was found before, see `sr_writer.tracking.follow`.

    Returns
    -------
    tuple[Artifact, ...]
        What stands in the folder, synced to disk, in the order in which it should be sent.

    Raises
    ------
    ValueError
        If result and series do not belong together, or a number has no code.
    """
    sources = Sources(series.instances)
    by = replace(_authorship(sources, identity, options, now, revision), tracks=tracks)
    if missing := set(result.geometry.sop_instance_uids) - set(sources.instances):
        raise ValueError(f"{len(missing)} slices of the result are not in the series")
    make_folders(out)
    segmentation = seg.build(result, sources, by) if result.segments else None
    artifacts = [] if segmentation is None else [_write(segmentation, out, "seg")]
    keys = [sources.instances[uid] for uid in summary.key_images(result)]
    canvas = summary.draw(result, volume, sources, by)
    picture = sc.build(
        canvas.pixels(), keys, by, kind="sc", description="AI summary: key images with outlines, numbers"
    )
    report = sr.build(result, sources, by, segmentation, _reports(predecessors, identity), beside=[picture])
    artifacts += [_write(report, out, "sr"), _write(picture, out, "sc")]
    _preview(artifacts[-1], out)
    _remove_others(out, artifacts)
    return tuple(artifacts)


def _authorship(
    sources: Sources, identity: AnalysisIdentity, options: WriterOptions, now: datetime, revision: int
) -> Authorship:
    first = sources.first
    return Authorship(first.header, identity, options, now, revision, first.ascii_only)


def _reports(predecessors: Sequence[Predecessor], identity: AnalysisIdentity) -> list[Dataset]:
    """Return what the report follows (PS3.3 section C.17.2): the earlier report, or the card that stood in its place."""
    reports = [p for p in predecessors if p.sop_class_uid == Comprehensive3DSRStorage]
    out = []
    for predecessor in reports or predecessors:
        ds = Dataset()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = identity.study_instance_uid, predecessor.series_instance_uid
        ds.SOPClassUID, ds.SOPInstanceUID = predecessor.sop_class_uid, predecessor.sop_instance_uid
        out.append(ds)
    return out


def _write(ds: Dataset, out: Path, kind: Kind) -> Artifact:
    path = out / f"{kind}.dcm"
    write_dicom(ds, path)
    return Artifact(
        path, path.name, kind, ds.Modality, ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID,
        path.stat().st_size, digest_dataset(path),
    )  # fmt: skip


def write_card(  # noqa: PLR0917 - as `write_result`
    reason: Reason,
    outcome: Literal["not_analysed", "failed"],
    study: Study,
    identity: AnalysisIdentity,
    options: WriterOptions,
    out: Path,
    now: datetime,
    revision: int = 1,
    predecessors: Sequence[Predecessor] = (),
    considered: Sequence[Considered] = (),
) -> tuple[Artifact, ...]:
    """Write ``card.dcm`` and ``preview.png`` into `out`: one picture that says why there is no result.

    Parameters
    ----------
    reason : Reason
        Why.
    outcome : {"not_analysed", "failed"}
        Whether it worked as designed.
    study : Study
        The whole study revision.
    identity, options, out, now, revision
        As for `write_result`; the identity's inputs are what was considered.
    predecessors : Sequence[Predecessor]
        Accepted for symmetry with `write_result`; a picture names no predecessor.
    considered : Sequence[Considered]
        Series that were looked at, with what was thought of them.
    """
    del predecessors
    used = {uid for uid, _ in identity.inputs}
    inputs = [i for i in study.instances if i.sop_instance_uid in used] or list(study.instances)
    by = _authorship(Sources(inputs), identity, options, now, revision)
    make_folders(out)
    canvas = card.draw(reason, outcome, study, considered, by)
    first_of_series = {i.series_instance_uid: i for i in reversed(inputs)}
    sources = [i for _, i in sorted(first_of_series.items())]
    what = {"not_analysed": "not analysed", "failed": "failed"}[outcome]
    picture = sc.build(
        canvas.pixels(), sources, by, kind="card", what=what, description=f"AI {what}: {reason.code}",
        variant=card_variant(reason, outcome, considered),
    )  # fmt: skip
    artifacts = [_write(picture, out, "card")]
    _preview(artifacts[-1], out)
    _remove_others(out, artifacts)
    return tuple(artifacts)


def _preview(picture: Artifact, out: Path) -> None:
    """Write the picture that stands in the object, whose first bytes are kept, as PNG."""
    temporary = out / ".preview.png.part"
    Image.fromarray(dcmread(picture.path).pixel_array).save(temporary, "PNG", compress_level=6)
    publish(temporary, out / "preview.png")


def _remove_others(out: Path, artifacts: Sequence[Artifact]) -> None:
    """Take away objects of an earlier, different analysis: what stands in the folder is one analysis, whole."""
    for kind in get_args(Kind):
        if all(a.kind != kind for a in artifacts):
            (out / f"{kind}.dcm").unlink(missing_ok=True)
