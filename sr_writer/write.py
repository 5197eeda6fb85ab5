"""Writing a result, or the statement that there is none, as DICOM objects into a folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from dicom_io.files import make_folders
from dicom_io.model import Series, Study
from dicom_io.read import digest_dataset
from dicom_io.reason import Reason
from pipeline.result import Result
from sr_writer.analysis import Analysis, NoResult, Pixels
from sr_writer.considered import Considered
from sr_writer.encoding import Encoder
from sr_writer.files import publish, write_dicom
from sr_writer.header import Authorship
from sr_writer.identity import AnalysisIdentity
from sr_writer.options import WriterOptions
from sr_writer.profiles import REPORTS, SERIES, SYNTAXES, ObjectName, Piece, profile
from sr_writer.radiograph import Values
from sr_writer.sources import Sources


@dataclass(frozen=True, slots=True)
class Artifact:
    """One DICOM object that was authored here.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Its name in the output folder, for example ``seg.dcm``.
    kind : ObjectName
        What it is.
    modality, sop_class_uid, sop_instance_uid, series_instance_uid : str
        As in the object.
    bytes : int
        Size of the file.
    digest : str
        SHA-256 (hex) of the encoded data set after the file meta information.
    variant : str
        Which encoding of it, see `sr_writer.profiles.Piece`.
    """

    path: Path
    name: str
    kind: ObjectName
    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    bytes: int
    digest: str
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An object of an earlier revision that the new one follows; only reports are named in the report.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, series_instance_uid : str
        As in the object.
    path : Path or None
        Its file, from which what is found again is known; it need not be there.
    variant : str
        Which encoding of it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: Path | None = None
    variant: str = ""


def write_result(  # noqa: PLR0917 - everything that an analysis hands over
    result: Result,
    values: Values,
    series: Series,
    identity: AnalysisIdentity,
    options: WriterOptions,
    out: Path,
    now: datetime,
    revision: int = 1,
    predecessors: Sequence[Predecessor] = (),
    tracks: Mapping[str, str] = MappingProxyType({}),
    pieces: Sequence[Piece] | None = None,
) -> tuple[Artifact, ...]:
    """Write the objects that bring `result`, and ``preview.png``, into `out`.

    Parameters
    ----------
    result : Result
        What the pipeline said.
    values : Values
        What it was computed from, for the pictures.
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
    pieces : Sequence[Piece] or None
        What to write, each in a file that is named for its encoding; None: the objects of ``options.profile`` in files
        that are named for their kind. Where there is nothing to show, some are left out.

    Returns
    -------
    tuple[Artifact, ...]
        What stands in the folder, synced to disk, in the order of `pieces`.

    Raises
    ------
    ValueError
        If result and series do not belong together, or a number has no code.
    """
    sources = Sources(series.instances)
    by = replace(authorship(sources, identity, options, now, revision), tracks=tracks)
    if missing := set(result.geometry.images) - set(sources.images):
        raise ValueError(f"{len(missing)} slices of the result are not in the series")
    make_folders(out)
    names = _names(pieces, options, result=True)
    analysis = Analysis(result, values, sources, by, lambda piece: _reports(predecessors, identity, piece))
    written: dict[str, list[Artifact]] = {}
    encoder = Encoder()
    for piece, stem in sorted(names.items(), key=lambda row: row[0].form.object in REPORTS):  # they refer to the others
        written[stem] = [
            put(ds, out, name, piece, encoder) for ds, name in _named(analysis.objects(piece), stem, piece.form.object)
        ]
    artifacts = [a for stem in names.values() for a in written[stem]]
    _preview(artifacts, lambda: analysis.picture, out)
    _remove_others(out, artifacts)
    return tuple(artifacts)


def _names(pieces: Sequence[Piece] | None, options: WriterOptions, *, result: bool) -> dict[Piece, str]:
    """Return file names, without their endings, of what is to be written."""
    if pieces is not None:
        return {piece: piece.stem for piece in pieces}
    return {line.piece: line.piece.form.object for line in profile(options.profile).lines(result=result)}


def _named(objects: Iterable[Dataset], stem: str, kind: ObjectName) -> Iterator[tuple[Dataset, str]]:
    for n, ds in enumerate(objects, start=1):
        yield ds, f"{stem}-{n:04d}" if kind in SERIES else stem


def authorship(
    sources: Sources, identity: AnalysisIdentity, options: WriterOptions, now: datetime, revision: int
) -> Authorship:
    """Return what all objects of one analysis share."""
    first = sources.first
    return Authorship(first.header, identity, options, now, revision, first.ascii_only)


def _reports(predecessors: Sequence[Predecessor], identity: AnalysisIdentity, piece: Piece) -> list[Dataset]:
    """Return what a report follows (PS3.3 section C.17.2): the earlier one, or the card that stood in its place."""
    sop_class = {"sr": Comprehensive3DSRStorage, "csr": ComprehensiveSRStorage}[piece.form.object]
    same = [p for p in predecessors if p.sop_class_uid == sop_class]
    reports = [p for p in same if p.variant == piece.variant] or same
    out = []
    for predecessor in reports or predecessors:
        ds = Dataset()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = identity.study_instance_uid, predecessor.series_instance_uid
        ds.SOPClassUID, ds.SOPInstanceUID = predecessor.sop_class_uid, predecessor.sop_instance_uid
        out.append(ds)
    return out


def put(ds: Dataset, out: Path, name: str, piece: Piece, encoder: Encoder) -> Artifact:
    """Write one object into the folder `out`, unless it stands there: first bytes are kept."""
    path = out / f"{name}.dcm"
    write_dicom(ds, path, SYNTAXES[piece.form.compression], encoder)
    return Artifact(
        path, path.name, piece.form.object, ds.Modality, ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID,
        path.stat().st_size, digest_dataset(path), piece.variant,
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
    pieces: Sequence[Piece] | None = None,
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
    pieces : Sequence[Piece] or None
        As for `write_result`.
    """
    del predecessors
    used = {uid for uid, _ in identity.inputs}
    inputs = [i for i in study.instances if i.sop_instance_uid in used] or list(study.instances)
    sources = Sources(inputs)
    by = authorship(sources, identity, options, now, revision)
    make_folders(out)
    said = NoResult(reason, outcome, study, considered, sources, by)
    names = _names(pieces, options, result=False)
    encoder = Encoder()
    artifacts = [put(said.object(piece), out, stem, piece, encoder) for piece, stem in names.items()]
    _preview(artifacts, said.picture, out)
    _remove_others(out, artifacts)
    return tuple(artifacts)


def _preview(artifacts: Sequence[Artifact], picture: Callable[[], Pixels], out: Path) -> None:
    """Write a picture as PNG: the one that stands in an object, whose first bytes are kept, or else `picture`."""
    temporary = out / ".preview.png.part"
    stored = next((a.path for a in artifacts if a.kind in {"sc", "card"}), None)
    pixels = picture() if stored is None else dcmread(stored).pixel_array
    Image.fromarray(pixels).save(temporary, "PNG", compress_level=6)
    publish(temporary, out / "preview.png")


def _remove_others(out: Path, artifacts: Sequence[Artifact]) -> None:
    """Take away objects of an earlier, different analysis: what stands in the folder is one analysis, whole."""
    for path in out.glob("*.dcm"):
        if path.stem.split("-")[0] not in {a.kind for a in artifacts}:
            path.unlink()
