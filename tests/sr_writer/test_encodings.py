"""Segmentations in every encoding: the same masks, whoever reads them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless, RLELossless

from sr_writer import seg
from sr_writer.files import write_dicom
from sr_writer.header import Authorship
from sr_writer.profiles import Form, Piece
from sr_writer.seg_frames import FULL, Encoding
from sr_writer.sources import Sources

ENCODINGS: tuple[Encoding, ...] = ("binary", "fractional", "labelmap")


def _built(case: Any, now: Any, encoding: Encoding, *, omit_empty_frames: bool = True) -> pydicom.Dataset:
    sources = Sources(case.series.instances)
    piece = Piece(Form("seg", encoding, omit_empty_frames=omit_empty_frames))
    by = Authorship(sources.first.header, case.identity, case.options, now, 1, piece=piece)
    return seg.build(case.result, sources, by, encoding)


def _expected(case: Any) -> dict[int, np.ndarray]:
    out = {}
    for segment in case.result.segments:
        out[segment.number] = np.zeros(case.volume.array.shape, bool)
        segment.mask.paint(out[segment.number])
    return out


def _decoded(case: Any, ds: pydicom.Dataset) -> dict[int, np.ndarray]:
    """Read the masks back by pydicom alone, from what each frame says of itself."""
    order = {uid: z for z, (uid, _) in enumerate(case.result.geometry.images)}
    out = {s.number: np.zeros(case.volume.array.shape, bool) for s in case.result.segments}
    planes = ds.pixel_array.reshape(int(ds.NumberOfFrames), ds.Rows, ds.Columns)
    for plane, group in zip(planes, ds.PerFrameFunctionalGroupsSequence, strict=True):
        z = order[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        if ds.SegmentationType == "LABELMAP":
            for number, mask in out.items():
                mask[z] = plane == number
        else:
            assert set(np.unique(plane)) <= {0, 1 if ds.SegmentationType == "BINARY" else FULL}
            out[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber][z] = plane > 0
    return out


@pytest.fixture(scope="module")
def flat(positive: Any) -> Any:
    """A result whose segments do not overlap: opacities without the lungs that hold them. 90 x 99 pixels."""
    segments = tuple(replace(s, number=n) for n, s in enumerate(positive.result.segments[2:], start=1))
    findings = tuple(replace(f, segment_number=f.segment_number - 2) for f in positive.result.findings)
    return replace(positive, result=replace(positive.result, segments=segments, findings=findings))


@pytest.mark.unit
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("omit", [True, False])
def test_36_every_encoding_comes_back_voxel_for_voxel(
    flat: Any, helpers: Any, tmp_path: Path, encoding: Encoding, omit: bool
) -> None:
    ds = _built(flat, helpers.now, encoding, omit_empty_frames=omit)
    write_dicom(ds, tmp_path / "seg.dcm")
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    expected = _expected(flat)
    assert read.SegmentationType == encoding.upper()
    found = _decoded(flat, read)
    assert all((found[n] == expected[n]).all() for n in expected)
    slices = len(flat.series.instances)
    if not omit:
        assert read.NumberOfFrames == slices * (1 if encoding == "labelmap" else len(expected))
    positions = [f.FrameContentSequence[0].DimensionIndexValues for f in read.PerFrameFunctionalGroupsSequence]
    positions = [tuple(p) if hasattr(p, "__iter__") else (p,) for p in positions]
    assert positions == sorted(set(positions))


@pytest.mark.unit
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_36_highdicom_reads_every_encoding(flat: Any, helpers: Any, tmp_path: Path, encoding: Encoding) -> None:
    write_dicom(_built(flat, helpers.now, encoding), tmp_path / "seg.dcm")
    read = hd.seg.segread(tmp_path / "seg.dcm")
    assert len(read.segment_numbers) == len(flat.result.segments)  # its count is one short in a label map
    assert [read.get_segment_description(n).tracking_id for n in read.segment_numbers] == [
        s.tracking_id for s in flat.result.segments
    ]
    uids = [image.sop_instance_uid for image in flat.result.geometry.images]
    pixels = read.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    for n, expected in _expected(flat).items():
        assert (pixels[..., n - 1] == expected).all()


@pytest.mark.unit
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("encoding", ["fractional", "labelmap"])
def test_36_compressed_frames_are_the_same(flat: Any, helpers: Any, encoding: Encoding, syntax: str) -> None:
    plain, packed = _built(flat, helpers.now, encoding), _built(flat, helpers.now, encoding)
    for ds in (plain, packed):
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    packed.compress(syntax, generate_instance_uid=False)
    assert (packed.pixel_array == plain.pixel_array).all()
    assert len(packed.PixelData) < len(plain.PixelData)


@pytest.mark.unit
def test_overlapping_segments_are_no_label_map(positive: Any, helpers: Any) -> None:
    assert _built(positive, helpers.now, "labelmap").SegmentationType == "BINARY"


@pytest.mark.unit
def test_a_label_map_describes_its_background(flat: Any, helpers: Any) -> None:
    ds = _built(flat, helpers.now, "labelmap")
    assert [s.SegmentNumber for s in ds.SegmentSequence] == list(range(len(flat.result.segments) + 1))
    assert (ds.PixelPaddingValue, ds.SegmentsOverlap) == (0, "NO")
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.mark.unit
def test_another_encoding_is_another_object(flat: Any, helpers: Any) -> None:
    made = [_built(flat, helpers.now, encoding) for encoding in ENCODINGS]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({ds[keyword].value for ds in made}) == len(ENCODINGS)
    tracking = [[(s.TrackingID, s.TrackingUID) for s in ds.SegmentSequence if s.SegmentNumber] for ds in made]
    assert tracking[0] == tracking[1] == tracking[2]
