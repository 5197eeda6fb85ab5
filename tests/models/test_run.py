"""From an image to the network and back: never mirrored, in windows of any size, and honest about what came out."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dicom_io.model import ImageKey
from dicom_io.radiograph import OPPOSITE, Radiograph, Spacing
from dicom_io.volume import Volume
from pipeline.errors import PipelineFailed
from pipeline.models import description, grid, heads, prepare, window
from pipeline.models.description import Input, Model, Step
from pipeline.models.network import Outputs
from tests.models import makers

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
AXES = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
OBLIQUE = np.array([[0.94, -0.31, 0.14], [0.34, 0.86, -0.37], [-0.003, 0.398, 0.917]])


def model(**changes: Any) -> Model:
    said = makers.described(**changes)
    return description.parse(
        {"schema": description.SCHEMA, "format": "torchscript", "weights": "m.ts", "files": {"m.ts": "sha256:" + "0" * 64}, **said}
    )  # fmt: skip


def body(lps: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Say what lies in a body without any symmetry: three boxes of different size along left, back and head."""
    x, y, z = lps[..., 0], lps[..., 1], lps[..., 2]
    left = (x > 4) & (x < 26) & (abs(y) < 6) & (abs(z) < 6)
    back = (abs(x) < 6) & (y > 4) & (y < 20) & (abs(z) < 6)
    head = (abs(x) < 6) & (abs(y) < 6) & (z > 0) & (z < 15)
    return np.asarray(left | back | head)


def volume(
    directions: npt.NDArray[np.float64], spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> Volume:
    """Sample the body; columns of `directions` are where x, y and z of the array run, in LPS."""
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    centre = (np.array(shape[::-1]) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ centre + [4.0, 3.0, 2.0]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)[..., ::-1]
    inside = body(index @ affine[:3, :3].T + affine[:3, 3])
    keys = tuple(ImageKey(f"1.{z}") for z in range(shape[0]))
    return Volume(np.where(inside, 50.0, -900.0).astype(np.float32), affine, 0.0, keys, "1.2", "1.3", None)


def said(orientation: str = "RAS", **more: Any) -> Input:
    return Input(kind="volume", orientation=orientation, **more)


def truth(v: Volume) -> npt.NDArray[np.bool_]:
    return np.asarray(v.array > -300)


def dice(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def back(laid: grid.Grid, field: torch.Tensor, v: Volume) -> npt.NDArray[np.bool_]:
    out = np.zeros(v.array.shape, bool)
    box = laid.around(field, 0.5)
    assert box is not None
    values, where = laid.give(field[box], box)
    out[where] = values.numpy() >= 0.5
    return out


@pytest.mark.parametrize(
    "orientation", ["RAS", *(pytest.param(o, marks=pytest.mark.long) for o in ("LPS", "SPL", "IAR"))]
)
def test_every_orientation_gives_the_network_the_same_and_gets_its_own_mask_back(orientation: str) -> None:
    seen = []
    for order, signs in AXES:
        directions = np.zeros((3, 3))
        for column, (axis, sign) in enumerate(zip(order, signs, strict=True)):
            directions[axis, column] = sign
        size = {0: 36, 1: 30, 2: 26}  # of the body along x, y and z
        shape = tuple(size[axis] for axis in order[::-1])
        v = volume(directions, (2.0, 2.0, 2.0), (shape[0], shape[1], shape[2]))
        laid = grid.of_volume(v, said(orientation))
        field = laid.take(v.array, -1000.0, CPU)
        seen.append(field)
        assert np.array_equal(back(laid, (field > -300).float(), v), truth(v)), (order, signs)
    assert all(torch.equal(field, seen[0]) for field in seen)
    middle = [n // 2 for n in seen[0].shape]
    first = seen[0][:, middle[1], middle[2]] if orientation[0] in "RL" else None
    if first is not None:  # the body is longer to the left: fewer of its samples on the right
        half = len(first) // 2
        towards_left = (first[half:] > -300).sum() > (first[:half] > -300).sum()
        assert bool(towards_left) == (orientation[0] == "L")


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 2.0)])
def test_masks_return_through_other_spacings_and_from_oblique_volumes(spacing: tuple[float, float, float]) -> None:
    for directions in (np.eye(3), np.diag([-1.0, 1.0, -1.0]), OBLIQUE):
        v = volume(directions, (1.5, 1.5, 3.0), (20, 44, 48))
        laid = grid.of_volume(v, said("RAS", spacing=spacing))
        field = laid.take(v.array, -1000.0, CPU)
        assert dice(back(laid, torch.sigmoid((field + 425) / 50), v), truth(v)) > 0.9


def test_resampling_averages_where_the_network_is_coarser() -> None:
    """Every second sample of a fine pattern would be all black; half of it is what is there."""
    v = volume(np.eye(3), (1.0, 1.0, 1.0), (8, 32, 32))
    stripes = np.zeros(v.array.shape, np.float32)
    stripes[:, :, ::2] = 1.0
    laid = grid.of_volume(v, said("LPS", spacing=(4.0, 4.0, 4.0)))
    field = laid.take(stripes, 0.0, CPU)
    assert float((field - 0.5).abs().max()) < 0.13


def radiograph(orientation: tuple[str, str] | tuple[()], rows: int = 12, columns: int = 20) -> Radiograph:
    array = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return Radiograph(array, array, Spacing(0.5, 0.5, "detector"), orientation, "", 0, "", "1.1", "1.2")


@pytest.mark.parametrize("ends", [("L", "F"), ("R", "F"), ("L", "H"), ("R", "H"), ("F", "L"), ("H", "R")])
def test_a_radiograph_is_turned_to_the_sides_of_the_network_and_back(ends: tuple[str, str]) -> None:
    image = radiograph(ends)
    laid = grid.of_radiograph(image, Input(kind="image", orientation="FL"))
    field = laid.take(image.array[None], 0.0, CPU)[0].numpy()
    expected = image.array if ends[0] in "LR" else image.array.T
    rows_end, columns_end = (ends[1], ends[0]) if ends[0] in "LR" else (ends[0], ends[1])
    expected = expected[:: 1 if rows_end == "F" else -1, :: 1 if columns_end == "L" else -1]
    assert np.array_equal(field, expected)
    hit = torch.zeros(laid.shape)
    hit[0, 0, 0] = 1.0  # towards head and right
    box = laid.around(hit, 0.5)
    assert box is not None
    values, where = laid.give(hit[box], box)
    out = np.zeros((1, *image.array.shape), bool)
    out[where] = values.numpy() > 0.5
    (_, row, column), *more = np.argwhere(out)
    assert not more
    assert image.array[row, column] == expected[0, 0]


def test_a_lateral_view_is_not_given_to_a_network_of_frontal_ones() -> None:
    with pytest.raises(grid.Unfit):
        grid.of_radiograph(radiograph(("A", "F")), Input(kind="image", orientation="FL"))
    assert OPPOSITE["A"] == "P"


def test_an_image_keeps_its_shape_where_it_is_padded() -> None:
    image = radiograph(("L", "F"))
    laid = grid.of_radiograph(image, Input(kind="image", orientation="FL", size=(40, 40), fit="pad"))
    field = laid.take(np.ones((1, 12, 20), np.float32), -1.0, CPU)[0]
    assert bool((field[:8] == -1).all())
    assert bool((field[32:] == -1).all())
    assert bool((field[9:31] == 1).all())


@pytest.mark.parametrize(
    ("step", "gives", "edge"),
    [
        (Step("range", low=-100, high=100), [0.0, 0.5, 1.0], 0.0),
        (Step("range", low=0, high=100, to_low=-1, to_high=1, clip=False), [-3.0, -1.0, 3.0], -11.0),
        (Step("minmax"), [0.0, 1 / 3, 1.0], -4 / 3),
        (Step("shift", subtract=100, divide=50), [-4.0, -2.0, 2.0], -12.0),
        (Step("zscore"), [-1.0690, -0.2673, 1.3363], -4.2762),
        (Step("zscore", nonzero=True), [-1.0, 0.0, 1.0], -3.6667),
    ],
)  # fmt: skip
def test_values_are_normalised_as_described(step: Step, gives: list[float], edge: float) -> None:
    image = torch.tensor([-100.0, 0.0, 200.0])
    found, outside = prepare.normalise(image, Input(kind="image", channels=2, outside=-500.0, normalise=(step,)))
    assert found.shape == (2, 3)
    assert found[1].tolist() == pytest.approx(gives, abs=1e-3)
    assert outside == pytest.approx(edge, abs=1e-3)


class Runner:
    """A network made of a function, which has memory for so many samples."""

    device = CPU

    def __init__(self, function: Callable[[torch.Tensor], Any], most: int = 1 << 40) -> None:
        self._function, self._most = function, most
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, batch: torch.Tensor) -> Outputs:
        self.asked.append(tuple(batch.shape))
        if batch.numel() > self._most:
            raise torch.OutOfMemoryError
        return {"0": self._function(batch)}

    def to(self, device: torch.device) -> "Runner":
        del device
        return self


def test_windows_give_what_the_whole_gives_and_shrink_where_memory_is_short() -> None:
    image = torch.rand((1, 37, 20, 50), generator=torch.Generator().manual_seed(1))
    tiled = model(
        input={"tile": [24, 24, 24], "smallest": [8, 8, 8], "multiple": 4, "overlap": 0.5}, device={"batch": 3}
    )
    plenty, short = Runner(lambda x: 3 * x), Runner(lambda x: 3 * x, most=3000)
    for runner, tile in ((plenty, (24, 24, 24)), (short, (12, 12, 12))):
        out, plan = window.maps(tiled, runner, image, 0.0)  # type: ignore[arg-type]
        assert torch.allclose(out, 3 * image, atol=1e-5)
        assert plan.tile == tile
    assert max(shape[0] for shape in plenty.asked) == 3
    none = Runner(lambda x: x, most=100)
    with pytest.raises(PipelineFailed) as caught:
        window.maps(tiled, none, image, 0.0)  # type: ignore[arg-type]
    assert caught.value.reason.code == "device-out-of-memory"
    assert caught.value.retryable


def test_windows_trust_their_middle_more_than_their_border() -> None:
    """A network that is wrong at the border of its window, as all are, is right where windows overlap."""

    def wrong_at_border(x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        out[..., 0], out[..., -1] = 1.0, 1.0
        return out

    tiled = model(input={"tile": [8, 8, 16], "overlap": 0.5})
    out, _ = window.maps(tiled, Runner(wrong_at_border), torch.zeros((1, 8, 8, 64)), 0.0)  # type: ignore[arg-type]
    assert float(out[..., 4:-4].max()) < 0.05


@pytest.mark.parametrize("function", [lambda x: x[:, :, :-1], lambda x: x.repeat(1, 2, 1, 1, 1)])
def test_an_output_of_another_shape_is_an_error(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(PipelineFailed) as caught:
        window.maps(model(), Runner(function), torch.zeros((1, 8, 8, 8)), 0.0)  # type: ignore[arg-type]
    assert caught.value.reason.code == "model-output-unexpected"


def cube(at: tuple[int, int, int], size: int, shape: tuple[int, int, int] = (20, 20, 20)) -> torch.Tensor:
    out = torch.full(shape, -9.0)
    out[tuple(slice(a, a + size) for a in at)] = 9.0
    return out


def plain(shape: tuple[int, int, int]) -> grid.Grid:
    return grid.Grid(tuple(grid.Axis(k, False, n, 1.0, n, 1.0) for k, n in enumerate(shape)))  # type: ignore[arg-type]


def test_the_highest_channel_wins_and_findings_are_counted_by_part() -> None:
    liver = {**makers.LABEL, "index": 1, "name": "liver"}
    lesion = {**makers.LABEL, "index": 2, "name": "lesion", "finding": True, "least": 0.01}
    of = model(output={"channels": 3, "activation": "softmax", "choose": "argmax"}, label=[liver, lesion])
    lesions = torch.maximum(cube((4, 4, 4), 3), cube((12, 12, 12), 4))
    given = torch.stack([torch.zeros(20, 20, 20), cube((2, 2, 2), 16), lesions * 2])
    given[2, 9, 9, 9] = 18.0  # one sample: smaller than `least`
    found = heads.areas(of, given, plain((20, 20, 20)), (20, 20, 20), 0.001)
    assert [(s.label.name, s.mask.voxels) for s in found if s.mask] == [("liver", 16**3 - 27 - 64 - 1), ("lesion", 64), ("lesion", 27)]  # fmt: skip
    assert all(0.9 < s.score <= 1 for s in found)


def test_labels_above_their_threshold_may_overlap_and_the_likeliest_are_told() -> None:
    rows = [
        {**makers.LABEL, "index": k, "name": f"n{k}", "finding": True, "threshold": 0.2 + 0.6 * k} for k in range(2)
    ]
    of = model(output={"channels": 2, "activation": "sigmoid", "most": 1}, label=rows)
    given = torch.stack([torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)])  # 0.5: above 0.2, below 0.8
    found = heads.areas(of, given, plain((8, 8, 8)), (8, 8, 8), 1.0)
    assert [s.label.name for s in found] == ["n0"]
    assert heads.areas(of, torch.full((2, 8, 8, 8), 5.0), plain((8, 8, 8)), (8, 8, 8), 1.0)[0].score > 0.99
    assert len(heads.areas(of, torch.full((2, 8, 8, 8), 5.0), plain((8, 8, 8)), (8, 8, 8), 1.0)) == 1


def test_boxes_land_where_they_are_and_the_better_of_two_stays() -> None:
    flipped = grid.Grid((grid.Axis(2, True, 20, 1.0, 10, 2.0), grid.Axis(1, False, 16, 1.0, 16, 1.0), grid.Axis(0, False, 12, 1.0, 12, 1.0)))  # fmt: skip
    of = model(
        task="detection", output={"channels": 1, "form": "boxes"}, label=[{**makers.LABEL, "index": 1, "finding": True}]
    )
    outputs = {
        "boxes": torch.tensor([[[1.0, 2, 3, 4, 6, 9], [1.0, 2, 3, 4, 6, 8], [5.0, 8, 1, 9, 12, 4], [0.0, 0, 0, 2, 2, 2]]]),
        "scores": torch.tensor([[0.8, 0.9, 0.6, 0.3]]), "labels": torch.tensor([[1, 1, 1, 1]]),
    }  # fmt: skip
    first, second = heads.boxes(of, outputs, flipped, (12, 16, 20))
    assert first.mask is not None
    assert (first.mask.offset, first.mask.box.shape) == ((3, 2, 12), (5, 4, 6))  # x from the other end, two a sample
    assert (first.score, second.score) == pytest.approx((0.9, 0.6))
    with pytest.raises(PipelineFailed):
        heads.boxes(of, {"boxes": torch.zeros(3), "scores": torch.zeros(1)}, flipped, (12, 16, 20))


@pytest.mark.parametrize(
    ("calibration", "score"),
    [({"method": "none"}, 0.8808), ({"method": "temperature", "temperature": 2.0}, 0.7311), ({"method": "platt", "slope": 0.5, "offset": -1.0}, 0.5)],
)  # fmt: skip
def test_a_classification_is_calibrated_as_described(calibration: dict[str, Any], score: float) -> None:
    of = model(task="classification", calibration=calibration)
    (found,) = heads.classes(of, {"0": torch.tensor([[2.0]])})
    assert found.score == pytest.approx(score, abs=1e-3)
    for bad in (torch.tensor([[float("nan")]]), torch.zeros((1, 3))):
        with pytest.raises(PipelineFailed):
            heads.classes(of, {"0": bad})


def test_a_score_that_is_no_share_is_an_error() -> None:
    of = model(task="classification")
    raw = replace(of, output=replace(of.output, activation="none"))
    with pytest.raises(PipelineFailed, match="0 to 1"):
        heads.classes(raw, {"0": torch.tensor([[9.0]])})
