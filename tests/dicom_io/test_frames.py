"""Enhanced CT: frames as slices, what is not guessed, and pixels of one frame at a time."""

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments
from pydicom.pixels import get_encoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_io.errors import GeometryError, PixelError
from dicom_io.frames import header_of, images_of
from dicom_io.limits import LIMITS
from dicom_io.model import ImageKey, Instance
from dicom_io.pixels import pixel_format, stored_values
from dicom_io.read import read_instance
from dicom_io.stack import build_stack
from dicom_io.volume import load_volume

pytestmark = pytest.mark.unit

ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY = "1.2.840.10008.5.1.4.1.1.2.2"
HEIGHTS = (4.0, 0.0, 8.0, 2.0, 6.0)
GROUPS = "PerFrameFunctionalGroupsSequence"
SHARED = "SharedFunctionalGroupsSequence"


def item(**values: Any) -> Dataset:
    out = Dataset()
    for keyword, value in values.items():
        setattr(out, keyword, value)
    return out


@pytest.fixture
def enhanced(make_header: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Return the header of five frames, the order of which is not that of their places."""

    def make(heights: Sequence[float] = HEIGHTS, sop_class: str = ENHANCED) -> Dataset:
        ds = make_header(
            SOPClassUID=sop_class, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None,
            SliceThickness=None, KVP=None, RescaleSlope=None, RescaleIntercept=None, RescaleType=None,
            NumberOfFrames=len(heights), Rows=32, Columns=32,
        )  # fmt: skip
        ds.SharedFunctionalGroupsSequence = [
            item(
                PixelMeasuresSequence=[item(PixelSpacing=[0.75, 0.5], SliceThickness=2.0)],
                PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                PixelValueTransformationSequence=[item(RescaleIntercept=0, RescaleSlope=1, RescaleType="HU")],
                CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
            )
        ]
        ds.PerFrameFunctionalGroupsSequence = [
            item(
                FrameContentSequence=[item(StackID="1")],
                PlanePositionSequence=[item(ImagePositionPatient=[10, 20, z])],
            )
            for z in heights
        ]
        return ds

    return make


def cells(frames: int = 5) -> np.ndarray:
    return np.arange(frames * 1024, dtype="<i2").reshape(frames, 32, 32)


@pytest.fixture
def written(enhanced: Callable[..., Dataset], save_slice: Callable[..., Path]) -> Callable[..., Instance]:
    def write(change: Callable[[Dataset], object] = lambda _: None, **more: Any) -> Instance:
        ds = enhanced()
        change(ds)
        return read_instance(save_slice(ds, cells(), **more))

    return write


def test_frames_are_slices_in_the_order_of_their_places(written: Callable[..., Instance]) -> None:
    instance = written()
    stack = build_stack([instance])
    uid = instance.sop_instance_uid
    assert stack.images == tuple(ImageKey(uid, frame) for frame in (2, 4, 1, 5, 3))
    assert [i.header.InstanceNumber for i in stack.instances] == [2, 4, 1, 5, 3]
    assert instance.header.InstanceNumber == 1, "the header as sent was changed"
    assert (stack.spacing_mm, stack.thickness_mm, stack.pixel_spacing_mm, stack.plane) == (
        2.0,
        2.0,
        (0.75, 0.5),
        "axial",
    )
    volume = load_volume(stack)
    np.testing.assert_array_equal(volume.array, cells()[[1, 3, 0, 4, 2]])
    np.testing.assert_array_equal(volume.affine[:3, 3], (10, 20, 0))
    assert volume.images == stack.images


def test_what_a_frame_says_itself_goes_before_what_all_share(written: Callable[..., Instance]) -> None:
    def own(ds: Dataset) -> None:
        for k, group in enumerate(ds[GROUPS].value):
            group.PixelValueTransformationSequence = [item(RescaleIntercept=-k, RescaleSlope=k + 1, RescaleType="HU")]

    volume = load_volume(build_stack([written(own)]))
    expected = [cells()[k] * float(k + 1) - k for k in (1, 3, 0, 4, 2)]
    np.testing.assert_array_equal(volume.array, expected)


def test_header_says_at_its_top_what_functional_groups_say(written: Callable[..., Instance]) -> None:
    def more(ds: Dataset) -> None:
        shared = ds[SHARED].value[0]
        shared.CTReconstructionSequence = [item(ConvolutionKernel="B30f")]
        shared.CTXRayDetailsSequence = [item(KVP=100)]
        shared.FrameVOILUTSequence = [item(WindowCenter=-600, WindowWidth=1500)]
        shared.FrameAnatomySequence = [item(AnatomicRegionSequence=[item(CodeMeaning="Head")])]
        ds.ContrastBolusAgentSequence = [item(CodeMeaning="Iodine")]

    instance = written(more)
    for header in (header_of(instance), images_of(instance)[3].header):
        assert (header.ConvolutionKernel, header.KVP, header.WindowWidth) == ("B30f", 100, 1500)
        assert (header.BodyPartExamined, header.ContrastBolusAgent) == ("HEAD", "Iodine")
        assert header.ImageType == ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        assert str(header.PatientName) == "Doe^Jane"
    assert header_of(instance).NumberOfFrames == 5
    assert "NumberOfFrames" not in header
    assert instance.header.get("ConvolutionKernel") is None, "the header as sent was changed"


def test_contrast_that_no_frame_was_given_is_none(written: Callable[..., Instance]) -> None:
    def without(ds: Dataset) -> None:
        ds.ContrastBolusAgentSequence = [item(CodeMeaning="Iodine")]
        ds[SHARED].value[0].ContrastBolusUsageSequence = [item(ContrastBolusAgentAdministered="NO")]

    assert "ContrastBolusAgent" not in header_of(written(without))


def test_legacy_converted_keeps_what_has_no_functional_group(
    enhanced: Callable[..., Dataset], save_slice: Callable[..., Path]
) -> None:
    ds = enhanced(sop_class=LEGACY)
    ds[SHARED].value[0].UnassignedSharedConvertedAttributesSequence = [item(ConvolutionKernel="SOFT", KVP=120)]
    ds[GROUPS].value[0].UnassignedPerFrameConvertedAttributesSequence = [item(ImagePositionPatient=[0, 0, 99])]
    image = images_of(read_instance(save_slice(ds, cells())))[0]
    assert (image.header.ConvolutionKernel, image.header.KVP) == ("SOFT", 120)
    assert image.header.ImagePositionPatient == [10, 20, 4]


def two_kinds(keyword: str, *values: Any) -> Callable[[Dataset], None]:
    def apply(ds: Dataset) -> None:
        for k, group in enumerate(ds[GROUPS].value):
            setattr(group.FrameContentSequence[0], keyword, values[k % len(values)])

    return apply


def group_of_one(sequence: str, **values: Any) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds[GROUPS].value[2], sequence, [item(**values)])


def without_place(ds: Dataset) -> None:
    """A place at the top level, where it does not belong, must not stand in for those of the frames."""
    ds.ImagePositionPatient = [10, 20, 4]
    del ds[GROUPS].value[0].PlanePositionSequence


REFUSED: list[tuple[str, Callable[[Dataset], object], str]] = [
    ("more frames than any scan", lambda ds: setattr(ds, "NumberOfFrames", 2_000_000_000), "frames-too-many"),
    ("no frames", lambda ds: setattr(ds, "NumberOfFrames", 0), "frames-inconsistent"),
    ("no number of frames", lambda ds: delattr(ds, "NumberOfFrames"), "frames-inconsistent"),
    ("more groups than frames", lambda ds: setattr(ds, "NumberOfFrames", 4), "frames-inconsistent"),
    ("groups cut short", lambda ds: ds[GROUPS].value.pop(), "frames-inconsistent"),
    ("no groups", lambda ds: delattr(ds, GROUPS), "frames-inconsistent"),
    ("no shared groups", lambda ds: delattr(ds, SHARED), "no-geometry"),
    ("a frame without a place", without_place, "no-geometry"),
    ("a place without a value", group_of_one("PlanePositionSequence"), "no-geometry"),
    ("two stacks", two_kinds("StackID", "1", "2"), "frames-mixed"),
    ("two points in time", two_kinds("TemporalPositionIndex", 1, 2), "frames-mixed"),
    ("a localizer among them", group_of_one("CTImageFrameTypeSequence", FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "frames-mixed"),
    ("two kinds of value", group_of_one("PixelValueTransformationSequence", RescaleType="US"), "frames-mixed"),
    ("mixed by its own word", lambda ds: (delattr(ds[SHARED].value[0], "CTImageFrameTypeSequence"), setattr(ds, "ImageType", ["MIXED", "PRIMARY"])), "frames-mixed"),
    ("two orientations", group_of_one("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "mixed-orientation"),
    ("every place twice", lambda ds: [setattr(g.PlanePositionSequence[0], "ImagePositionPatient", [10, 20, k // 2 * 2]) for k, g in enumerate(ds[GROUPS].value)], "positions-repeated"),
    ("no CT", lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7.2"), "multi-frame-not-supported"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_no_single_stack_is_refused_and_never_guessed(
    written: Callable[..., Instance], change: Callable[[Dataset], object], code: str
) -> None:
    instance = written(change)
    with pytest.raises(GeometryError) as caught:
        build_stack([instance])
    assert caught.value.reason.code == code
    assert "{" not in caught.value.reason.text["zh-CN"]
    assert header_of(instance).PatientID == "P1"


def test_frames_of_several_instances_are_one_stack_if_they_are_alike(
    enhanced: Callable[..., Dataset], save_slice: Callable[..., Path]
) -> None:
    parts = []
    for n, heights in enumerate(((0.0, 2.0, 4.0), (6.0, 8.0))):
        ds = enhanced(heights)
        ds.SOPInstanceUID, ds.ConcatenationFrameOffsetNumber = f"1.2.3.{n}", 3 * n
        parts.append(read_instance(save_slice(ds, cells(len(heights)))))
    stack = build_stack(parts)
    assert [tuple(key) for key in stack.images] == [("1.2.3.0", k) for k in (1, 2, 3)] + [
        ("1.2.3.1", k) for k in (1, 2)
    ]
    assert [i.header.InstanceNumber for i in stack.instances] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(load_volume(stack).array, [*cells(3), *cells(2)])


# ---- pixels


def encoded(syntax: UID) -> list[bytes]:
    options = {"rows": 32, "columns": 32, "samples_per_pixel": 1, "number_of_frames": 1, "bits_allocated": 16,
               "bits_stored": 16, "pixel_representation": 1, "photometric_interpretation": "MONOCHROME2",
               "pixel_keyword": "PixelData"}  # fmt: skip
    encoder = get_encoder(syntax)
    return [encoder.encode(frame.tobytes(), **options) for frame in cells()]


def in_two(frames: Sequence[bytes]) -> bytes:
    """Encapsulate every frame in two fragments, with a Basic Offset Table."""
    return encapsulate(list(frames), fragments_per_frame=2, has_bot=True)


def without_table(data: bytes) -> bytes:
    length = int.from_bytes(data[4:8], "little")
    return data[:4] + bytes(4) + data[8 + length :]


def wrong_table(data: bytes) -> bytes:
    return data[:12] + (int.from_bytes(data[12:16], "little") + 2).to_bytes(4, "little") + data[16:]


def compressed(ds: Dataset, data: bytes, syntax: UID, path: Path) -> Instance:
    ds.PixelData = data
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True

    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return read_instance(path)


ENCAPSULATED: list[tuple[str, UID, Callable[[list[bytes]], bytes], str]] = [
    ("RLE", RLELossless, encapsulate, ""),
    ("RLE, no table", RLELossless, lambda f: encapsulate(f, has_bot=False), ""),
    ("JPEG-LS", JPEGLSLossless, lambda f: encapsulate(f, has_bot=False), ""),
    ("JPEG 2000, extended table", JPEG2000Lossless, lambda f: encapsulate_extended(f)[0], ""),
    ("JPEG 2000, two fragments each", JPEG2000Lossless, in_two, ""),
    ("JPEG 2000, two fragments each, no table", JPEG2000Lossless, lambda f: without_table(in_two(f)), ""),
    ("a frame is missing", RLELossless, lambda f: encapsulate(f[:-1]), "pixels-truncated"),
    ("fragments that nothing assigns", RLELossless, lambda f: without_table(in_two(f)), "pixels-undecodable"),
    ("a table that names no fragment", JPEG2000Lossless, lambda f: wrong_table(in_two(f)), "pixels-undecodable"),
    ("an empty frame", JPEG2000Lossless, lambda f: encapsulate([f[0], b"\0\0", *f[2:]]), "pixels-truncated"),
]


@pytest.mark.parametrize(("syntax", "pack", "code"), [e[1:] for e in ENCAPSULATED], ids=[e[0] for e in ENCAPSULATED])
def test_each_compressed_frame_is_found_and_decoded_alone(
    enhanced: Callable[..., Dataset], tmp_path: Path, syntax: UID, pack: Callable[[list[bytes]], bytes], code: str
) -> None:
    instance = compressed(enhanced(), pack(encoded(syntax)), syntax, tmp_path / "image")
    if not code:
        np.testing.assert_array_equal(load_volume(build_stack([instance])).array, cells()[[1, 3, 0, 4, 2]])
        return
    with pytest.raises(PixelError) as caught:
        load_volume(build_stack([instance]))
    assert caught.value.reason.code == code


def test_two_fragments_are_what_the_test_says() -> None:
    assert len(list(generate_fragments(in_two(encoded(JPEG2000Lossless))))) == 11


def test_a_frame_goes_to_the_decoder_in_its_own_process(
    enhanced: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JPEG Lossless is decoded by GDCM in a child, which gets one frame and nothing else of the file."""
    gdcm = pytest.importorskip("gdcm")
    del gdcm
    from dicom_io import guarded, syntaxes

    row = syntaxes.BY_UID[JPEG2000Lossless]
    monkeypatch.setitem(syntaxes.BY_UID, JPEG2000Lossless, syntaxes.Syntax(row.uid, row.family, "child"))
    asked: list[Path] = []
    real = guarded.decode
    monkeypatch.setattr(guarded, "decode", lambda path, syntax: (asked.append(path), real(path, syntax))[1])
    instance = compressed(enhanced(), encapsulate(encoded(JPEG2000Lossless)), JPEG2000Lossless, tmp_path / "image")
    np.testing.assert_array_equal(load_volume(build_stack([instance])).array, cells()[[1, 3, 0, 4, 2]])
    assert len(asked) == 5
    assert instance.path not in asked


def test_native_frames_stand_one_after_the_other(written: Callable[..., Instance]) -> None:
    for n, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian)):
        instance = written(lambda ds: ds.add_new(0xFFFCFFFC, "OB", bytes(10)), name=f"{n}.dcm", syntax=syntax)
        np.testing.assert_array_equal(load_volume(build_stack([instance])).array, cells()[[1, 3, 0, 4, 2]])


def test_what_is_cut_short_or_cannot_be_entered_is_refused(written: Callable[..., Instance]) -> None:
    whole = written()
    whole.path.write_bytes(whole.path.read_bytes()[:-20])
    with pytest.raises(PixelError) as caught:
        load_volume(build_stack([whole]))
    assert caught.value.reason.code == "pixels-truncated"
    deflated = written(name="deflated.dcm", syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(PixelError) as caught:
        load_volume(build_stack([deflated]))
    assert caught.value.reason.code == "pixels-undecodable"


def test_one_frame_costs_the_memory_of_one_frame(
    enhanced: Callable[..., Dataset], save_slice: Callable[..., Path]
) -> None:
    ds = enhanced([float(k) for k in range(64)])
    ds.Rows, ds.Columns = 256, 256
    instance = read_instance(save_slice(ds, np.zeros((64, 256, 256), "<i2")))
    image = images_of(instance)[40]
    tracemalloc.start()
    assert stored_values(image, pixel_format(image)).shape == (256, 256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 256 * 256 * 2


def test_limit_of_frames_is_below_what_a_header_may_hold() -> None:
    assert LIMITS.read.frames * 10 < LIMITS.read.items
