from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

import phantom
from dicom_io.discover import discover
from dicom_io.errors import DicomIOError, GeometryError, PixelError
from dicom_io.limits import LIMITS
from dicom_io.model import Instance
from dicom_io.read import read_instance
from dicom_io.stack import build_stack
from dicom_io.volume import Volume, load_volume

pytestmark = pytest.mark.unit
Make = Callable[..., Instance]

PIXELS = np.arange(48, dtype="<i2").reshape(8, 6) * 20 - 400


def load(*instances: Instance, **options: Any) -> Volume:
    return load_volume(build_stack(instances), **options)


def refusal(*instances: Instance) -> str:
    with pytest.raises(PixelError) as caught:
        load(*instances)
    return caught.value.reason.code


def test_voxels_lie_where_the_headers_say(make_slice: Make) -> None:
    row, column = np.array([0.8, 0.6, 0]), np.array([0, 0, -1.0])
    normal = np.cross(row, column)
    origin = np.array([5.0, -7, 11])
    slices = [
        make_slice(
            k + 1,
            tuple(float(v) for v in origin + (2 - k) * 3 * normal),
            np.full((8, 6), k, "<i2"),
            ImageOrientationPatient=[*row, *column],
        )
        for k in range(3)
    ]
    volume = load(*slices)
    assert volume.array.shape == (3, 8, 6)
    assert volume.array.dtype == np.float32
    assert [float(plane[0, 0]) for plane in volume.array] == [2, 1, 0]
    assert volume.images == tuple(s.key for s in reversed(slices))
    x, y, z = 4, 6, 2
    expected = origin + z * 3 * normal + x * 0.5 * row + y * 0.75 * column
    np.testing.assert_allclose(volume.affine @ [x, y, z, 1], [*expected, 1], atol=1e-9)
    assert volume.spacing_mm == pytest.approx((3, 0.75, 0.5))
    assert volume.affine_error_mm < 1e-9
    assert volume.frame_of_reference_uid == slices[0].header.FrameOfReferenceUID
    assert volume.series_instance_uid == slices[0].series_instance_uid


def test_the_affine_of_a_tilted_stack_leans_with_the_gantry(make_slice: Make) -> None:
    orientation = [1, 0, 0, 0, 0.96, 0.28]
    volume = load(*[make_slice(k + 1, (0, 0, 5.0 * k), ImageOrientationPatient=orientation) for k in range(3)])
    np.testing.assert_allclose(volume.affine @ [0, 0, 2, 1], [0, 0, 10, 1], atol=1e-9)
    assert abs(np.linalg.det(volume.affine)) == pytest.approx(0.75 * 0.5 * 5 * 0.96)


@pytest.mark.parametrize(
    ("options", "plane", "tilt"),
    [
        ({"plane": "axial"}, "axial", 0),
        ({"plane": "coronal"}, "coronal", 0),
        ({"plane": "sagittal"}, "sagittal", 0),
        ({"plane": "oblique"}, "oblique", 0),
        ({"plane": "axial", "feet_first": True}, "axial", 0),
        ({"plane": "axial", "tilt_deg": 15.0}, "axial", 15),
        ({"plane": "axial", "duplicates": (3,), "shuffle": True}, "axial", 0),
    ],
)
def test_a_phantom_comes_back_on_its_own_grid(tmp_path: Path, options: dict[str, Any], plane: str, tilt: float) -> None:
    made = phantom.build(3, lesions="none", slices=9, matrix=32, noise_hu=0, **options)
    phantom.write(made, tmp_path)
    found = [f.instance for f in discover([tmp_path / "dicom"], tmp_path) if f.instance]
    stack = build_stack(found)
    assert (stack.plane, stack.tilt_deg) == (plane, pytest.approx(tilt, abs=1e-3))
    assert len(stack.duplicates) == len(options.get("duplicates", ()))
    volume = load_volume(stack)
    np.testing.assert_allclose(volume.affine, made.affine, atol=1e-5)
    np.testing.assert_array_equal(volume.array, made.array)


def test_a_phantom_with_two_frames_of_reference_or_a_gap_is_refused(tmp_path: Path) -> None:
    for name, options, code in (
        ("frames", {"mixed_frame_of_reference": True}, "mixed-frames-of-reference"),
        ("gap", {"gaps": (4,)}, "slices-missing"),
    ):
        phantom.write(phantom.build(3, lesions="none", slices=9, matrix=32, **options), tmp_path / name)  # type: ignore[arg-type]  # each option has its own type
        found = [f.instance for f in discover([tmp_path / name / "dicom"], tmp_path) if f.instance]
        with pytest.raises(GeometryError) as caught:
            load(*found)
        assert caught.value.reason.code == code


def test_each_slice_is_rescaled_by_its_own_header(make_slice: Make) -> None:
    first = make_slice(1, (0, 0, 0), PIXELS, RescaleSlope=2, RescaleIntercept=-100)
    second = make_slice(2, (0, 0, 2), PIXELS, RescaleSlope=0.5, RescaleIntercept=7.5)
    array = load(first, second).array
    np.testing.assert_allclose(array[0], PIXELS * 2.0 - 100)
    np.testing.assert_allclose(array[1], PIXELS * 0.5 + 7.5)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, "1.2.840.10008.1.2.1", DeflatedExplicitVRLittleEndian])
def test_bits_above_those_stored_are_no_pixels(
    make_header: Callable[..., Dataset], save_slice: Callable[..., Path], signed: int, syntax: str
) -> None:
    values = np.arange(48).reshape(8, 6) * 80 - (2000 if signed else 0)
    cells = ((values & 0x0FFF) | 0xA000).astype("<u2")
    header = make_header(BitsStored=12, HighBit=11, PixelRepresentation=signed, Modality="MR")
    array = load(read_instance(save_slice(header, cells, syntax=syntax))).array
    np.testing.assert_array_equal(array[0], values)


def test_pixels_may_be_stored_in_the_upper_bits(
    make_header: Callable[..., Dataset], save_slice: Callable[..., Path]
) -> None:
    header = make_header(BitsStored=12, HighBit=15)
    array = load(read_instance(save_slice(header, (PIXELS << 4) | 5))).array
    np.testing.assert_array_equal(array[0], PIXELS)


@pytest.mark.parametrize(("allocated", "dtype"), [(8, "u1"), (16, "<u2"), (32, "<i4")])
def test_cells_of_every_width(
    make_header: Callable[..., Dataset], save_slice: Callable[..., Path], allocated: int, dtype: str
) -> None:
    bits = {"BitsAllocated": allocated, "BitsStored": allocated, "HighBit": allocated - 1}
    header = make_header(**bits, PixelRepresentation=int("i" in dtype))
    cells = (np.arange(48).reshape(8, 6) * 5).astype(dtype)
    np.testing.assert_array_equal(load(read_instance(save_slice(header, cells))).array[0], cells)


@pytest.mark.parametrize("rows", [8, 7])
def test_pixels_that_do_not_end_the_file_are_found(
    make_header: Callable[..., Dataset], save_slice: Callable[..., Path], rows: int
) -> None:
    header = make_header(Rows=rows, Columns=5, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    header.add_new(0xFFFCFFFC, "OB", b"\0" * 20)  # Data Set Trailing Padding
    cells = np.arange(rows * 5, dtype="u1")
    header.PixelData = cells.tobytes() + b"\0" * (cells.size % 2)
    path = save_slice(header, np.frombuffer(header.PixelData, "u1"))
    np.testing.assert_array_equal(load(read_instance(path)).array[0].ravel(), cells)


def test_big_endian_pixels(make_header: Callable[..., Dataset], save_slice: Callable[..., Path]) -> None:
    path = save_slice(make_header(), PIXELS.astype(">i2"), syntax=ExplicitVRBigEndian)
    np.testing.assert_array_equal(load(read_instance(path)).array[0], PIXELS)


@pytest.mark.parametrize("value", [-2000, 65536 - 2000])
def test_declared_padding_becomes_air_even_if_its_sign_is_wrong(
    make_header: Callable[..., Dataset], save_slice: Callable[..., Path], value: int
) -> None:
    header = make_header()
    header.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
    cells = PIXELS.copy()
    cells[:2, :3] = -2000
    volume = load(read_instance(save_slice(header, cells)))
    assert volume.padding is not None
    np.testing.assert_array_equal(volume.padding[0], cells == -2000)
    assert (volume.array[0][cells == -2000] == -1024).all()
    np.testing.assert_array_equal(volume.array[0][cells != -2000], cells[cells != -2000])


def test_a_padding_range_is_padding(make_slice: Make) -> None:
    cells = PIXELS.copy()
    cells[0, :4] = [-1300, -1250, -1200, -1100]
    volume = load(make_slice(1, (0, 0, 0), cells, PixelPaddingValue=-1300, PixelPaddingRangeLimit=-1200))
    np.testing.assert_array_equal(volume.array[0, 0, :4], [-1024, -1024, -1024, -1100])


@pytest.mark.parametrize("outside", [-2000, -2048, -3024, -32768])
def test_values_outside_the_reconstruction_circle_become_air(make_slice: Make, outside: int) -> None:
    cells = PIXELS.copy()
    cells[0, 0] = outside
    volume = load(make_slice(1, (0, 0, 0), cells))
    assert volume.array[0, 0, 0] == -1024
    assert volume.padding is not None
    assert int(volume.padding.sum()) == 1


def test_a_padding_value_that_would_erase_water_is_not_believed(make_slice: Make) -> None:
    volume = load(make_slice(1, (0, 0, 0), PIXELS, PixelPaddingValue=0))
    assert volume.padding is None
    np.testing.assert_array_equal(volume.array[0], PIXELS)


def test_padding_in_one_slice_leaves_the_others_alone(make_slice: Make) -> None:
    cells = PIXELS.copy()
    cells[3] = -3024
    volume = load(make_slice(1, (0, 0, 0), PIXELS), make_slice(2, (0, 0, 2), cells))
    assert volume.padding is not None
    assert volume.padding.sum(axis=(1, 2)).tolist() == [0, 6]


def test_missing_slices_never_become_a_volume_by_accident(make_slice: Make) -> None:
    stack = build_stack([make_slice(k, (0, 0, z)) for k, z in enumerate([0, 2, 4, 8, 10])])
    with pytest.raises(GeometryError) as caught:
        load_volume(stack)
    assert caught.value.reason.code == "slices-missing"
    volume = load_volume(stack, allow_gaps=True)
    assert volume.array.shape[0] == len(volume.images) == 5
    assert volume.affine_error_mm == pytest.approx(
        2.0
    )  # every slice keeps its volume; those past the gap are placed a step low


def test_uneven_slices_never_become_a_volume_by_accident(make_slice: Make) -> None:
    stack = build_stack([make_slice(k, (0, 0, z)) for k, z in enumerate([0, 2, 4.5, 6, 8])])
    with pytest.raises(GeometryError) as caught:
        load_volume(stack)
    assert caught.value.reason.code == "uneven-spacing"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"SamplesPerPixel": 3}, "pixels-not-grey"),
        ({"BitsAllocated": 12}, "pixels-odd-format"),
        ({"BitsStored": 17}, "pixels-odd-format"),
        ({"HighBit": 3}, "pixels-odd-format"),
        ({"PixelRepresentation": 7}, "pixels-odd-format"),
        ({"RescaleSlope": 0}, "pixels-odd-format"),
        ({"RescaleSlope": -1}, "pixels-odd-format"),
        ({"RescaleIntercept": "1e300"}, "pixels-odd-format"),
        ({"Rows": 9}, "pixels-truncated"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_headers_that_contradict_their_pixels_are_refused(make_slice: Make, changes: dict[str, Any], code: str) -> None:
    assert refusal(make_slice(1, (0, 0, 0), PIXELS, **changes)) == code


@pytest.mark.parametrize("lost", [1, 2, 50, 95])
def test_a_file_cut_inside_its_pixels_is_refused(make_slice: Make, lost: int) -> None:
    instance = make_slice(1, (0, 0, 0), PIXELS)
    instance.path.write_bytes(instance.path.read_bytes()[:-lost])
    assert refusal(read_instance(instance.path)) == "pixels-truncated"


def test_an_image_without_pixels_is_refused(make_slice: Make) -> None:
    instance = make_slice(1, (0, 0, 0), PIXELS)
    instance.path.write_bytes(instance.path.read_bytes()[: -96 - 12])
    assert refusal(read_instance(instance.path)) == "pixels-missing"


def test_a_file_that_has_gone_may_come_back(make_slice: Make) -> None:
    instance = make_slice(1, (0, 0, 0), PIXELS)
    instance.path.unlink()
    with pytest.raises(PixelError) as caught:
        load(instance)
    assert caught.value.retryable


@pytest.fixture
def compressed(make_header: Callable[..., Dataset], save_slice: Callable[..., Path]) -> Callable[[str], Path]:
    rng = np.random.default_rng(5)
    cells = rng.integers(-1000, 1000, (64, 48)).astype("<i2")

    def write(syntax: str) -> Path:
        path = save_slice(make_header(Rows=64, Columns=48), cells, name=f"{syntax}.dcm")
        ds = dcmread(path)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
        return path

    return write


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_compressed_slices_equal_the_uncompressed(compressed: Callable[[str], Path], syntax: str) -> None:
    expected = np.random.default_rng(5).integers(-1000, 1000, (64, 48))
    np.testing.assert_array_equal(load(read_instance(compressed(syntax))).array[0], expected)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_compressed_stream_cut_short_is_refused(compressed: Callable[[str], Path], syntax: str, share: float) -> None:
    path = compressed(syntax)
    ds = dcmread(path)
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    ds.PixelData = encapsulate([frame[: int(len(frame) * share)]])
    ds.save_as(path)
    assert refusal(read_instance(path)) in {"pixels-truncated", "pixels-undecodable"}


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_damaged_streams_decode_or_are_refused_but_never_crash(compressed: Callable[[str], Path], syntax: str) -> None:
    path = compressed(syntax)
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    refused = 0
    for _ in range(40):
        data = bytearray(whole)
        at = int(rng.integers(len(data) - 6000, len(data) - 20))
        data[at : at + 16] = rng.bytes(16)
        path.write_bytes(data)
        try:
            load(read_instance(path))
        except DicomIOError:  # the damage may reach the header
            refused += 1
    assert refused >= 1


@pytest.mark.data
def test_one_real_slice_in_every_lossless_syntax_is_the_same(real_data: Path) -> None:
    folder = real_data / "dicom_zoo" / "one_chest_ct_slice_many_syntaxes"
    volumes = {p.name[-40:]: load(read_instance(p)) for p in sorted(folder.iterdir()) if "JPEGProcess1T" not in p.name}
    assert len(volumes) == 7
    arrays = [v.array for v in volumes.values()]
    assert all(np.array_equal(a, arrays[0]) for a in arrays)
    assert arrays[0].min() == LIMITS.volume.air_hu


@pytest.mark.data
@pytest.mark.parametrize("name", ["JPEGProcess14SV1", "JPEGLSLossless", "JPEG2000LosslessOnly", "RLELossless"])
def test_a_real_compressed_slice_cut_short_is_refused(real_data: Path, tmp_path: Path, name: str) -> None:
    (path,) = (real_data / "dicom_zoo" / "one_chest_ct_slice_many_syntaxes").glob(f"*_{name}*")
    ds = dcmread(path)
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    ds.PixelData = encapsulate([frame[: len(frame) // 2]])
    ds.save_as(tmp_path / "cut.dcm")
    assert refusal(read_instance(tmp_path / "cut.dcm")) in {"pixels-truncated", "pixels-undecodable"}


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "shape"),
    [
        ("Lung_Dx-A0001/s2_lung_kernel_L", (64, 512, 512)),
        ("Lung_Dx-A0001/s3_soft_kernel_B", (18, 512, 512)),  # JPEG-LS
        ("CIP_ct64/dicom", (79, 64, 64)),
        ("negative_head_Philips", (14, 512, 512)),
    ],
)
def test_real_series_load_in_hounsfield_units(
    real_data: Path, tmp_path: Path, folder: str, shape: tuple[int, ...]
) -> None:
    volume = load(*(f.instance for f in discover([real_data / "ct" / folder], tmp_path) if f.instance))
    assert volume.array.shape == shape
    assert volume.affine_error_mm < 0.01
    assert volume.array.min() >= LIMITS.volume.outside_hu
    # air around the patient and soft tissue inside stand where they belong
    counts, edges = np.histogram(volume.array, bins=80, range=(-1050, 150))
    assert edges[counts[:20].argmax()] < -950
    assert np.abs(edges[40:][counts[40:].argmax()]) < 120


@pytest.mark.data
def test_the_tiny_real_volume_equals_its_nrrd(real_data: Path, tmp_path: Path) -> None:
    nrrd = pytest.importorskip("SimpleITK").ReadImage(str(real_data / "ct" / "CIP_ct64" / "ct-64.nrrd"))
    reference = pytest.importorskip("SimpleITK").GetArrayFromImage(nrrd)
    volume = load(*(f.instance for f in discover([real_data / "ct" / "CIP_ct64" / "dicom"], tmp_path) if f.instance))
    assert reference.shape == volume.array.shape
    np.testing.assert_array_equal(np.maximum(reference, -1500), volume.array)


@pytest.mark.data
@pytest.mark.parametrize("name", ["000000.dcm", "000300.dcm", "MR_truncated.dcm"])
def test_real_broken_pixels_are_refused(real_data: Path, name: str) -> None:
    code = refusal(read_instance(real_data / "dicom_zoo" / "odd_or_broken" / name))
    assert code in {"pixels-truncated", "pixels-undecodable"}


@pytest.mark.data
def test_a_stream_that_ends_its_decoder_is_refused_and_the_next_one_decoded(real_data: Path, tmp_path: Path) -> None:
    whole = real_data / "dicom_zoo" / "odd_or_broken" / "bad_sequence.dcm"  # JPEG lossless
    expected = load(read_instance(whole)).array
    ds = dcmread(whole)
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    ds.PixelData = encapsulate([frame[:0x0B] + b"\xff" + frame[0x0C:]])  # one byte of the JFIF header
    ds.save_as(tmp_path / "damaged.dcm")
    for _ in range(3):
        assert refusal(read_instance(tmp_path / "damaged.dcm")) == "pixels-undecodable"
        np.testing.assert_array_equal(load(read_instance(whole)).array, expected)


@pytest.mark.data
def test_real_jpeg_lossless_slices_decode(real_data: Path, tmp_path: Path) -> None:
    found = [f.instance for f in discover([real_data / "ct" / "RICORD-1A-000906"], tmp_path) if f.instance]
    volume = load(*(i for i in found if i.header.ImageOrientationPatient[0] == 0))
    assert volume.array.shape == (19, 512, 512)
    assert volume.array.min() == LIMITS.volume.air_hu
    assert 200 < volume.array.max() < 4000
