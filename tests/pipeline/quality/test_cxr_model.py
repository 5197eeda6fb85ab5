"""The learned network of `cxr_quality`: what it says of phantoms, and that its weights, card and recipe belong together."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from phantom.radiograph import Exposure, Radiograph, expose
from pipeline.errors import PipelineFailed
from pipeline.quality.cxr import model
from pipeline.quality.cxr.model import FLIPPED, INNER, ORIENTATIONS, Seen, load
from pipeline.quality.cxr.network import Network, shapes

pytestmark = pytest.mark.unit

PACKAGE = Path(model.__file__).parent
SIZE = 192


@pytest.fixture(scope="module")
def made() -> Radiograph:
    return expose(Exposure(seed=77, rows=SIZE, columns=SIZE, step_mm=4.0))


@pytest.fixture(scope="module")
def shown(made: Radiograph) -> np.ndarray:
    return made.array.astype(np.float32) / made.array.max()


@pytest.fixture(scope="module")
def seen(shown: np.ndarray) -> Seen:
    return load().look(shown)


def test_a_chest_is_seen_upright_and_as_it_is(seen: Seen) -> None:
    assert seen.lying == "upright"
    assert seen.inverted < 0.5 < seen.chest
    assert abs(seen.tilt_deg) < 5


def test_lungs_are_the_patients_and_where_they_are(seen: Seen, made: Radiograph) -> None:
    for found, truth in zip(seen.mask((SIZE, SIZE)), (made.right, made.left), strict=True):
        rows = np.flatnonzero(truth.any(axis=1))
        above = slice(
            None, rows[0] + np.ptp(rows) * 6 // 10
        )  # a shadow goes on behind the diaphragm; what is seen ends at it
        assert 2 * (found & truth)[above].sum() / (found[above].sum() + truth[above].sum()) > 0.85
        assert (found & truth).sum() > 0.97 * found.sum()


def test_margins_are_those_of_the_truth(seen: Seen, made: Radiograph) -> None:
    rows, columns = np.flatnonzero((made.right | made.left).any(1)), np.flatnonzero((made.right | made.left).any(0))
    assert seen.margins is not None
    assert seen.margins.top == pytest.approx(rows[0] / SIZE, abs=0.03)
    assert seen.margins.left == pytest.approx(columns[0] / SIZE, abs=0.03)
    assert seen.margins.right == pytest.approx((SIZE - 1 - columns[-1]) / SIZE, abs=0.03)


@pytest.mark.parametrize("lies", range(1, 8))
def test_whatever_way_it_lies_is_named_and_undone(lies: int, shown: np.ndarray, seen: Seen) -> None:
    there = np.rot90(shown[:, ::-1] if lies >= 4 else shown, lies % 4)
    found = load().look(np.ascontiguousarray(there))
    assert found.lying == ORIENTATIONS[lies]
    back = np.rot90(found.right, -(lies % 4))
    back = back[:, ::-1] if lies >= 4 else back
    assert np.abs(back - seen.right).mean() < 0.02
    assert found.margins is not None
    assert seen.margins is not None
    top_lies = ("top", "left", "bottom", "right")[lies % 4]  # of the upright picture, counter-clockwise
    assert getattr(found.margins, top_lies) == pytest.approx(seen.margins.top, abs=0.02)


def test_an_inverted_picture_is_seen_and_read_all_the_same(shown: np.ndarray, seen: Seen) -> None:
    found = load().look(1 - shown)
    assert found.inverted > 0.5
    assert np.abs(found.right - seen.right).mean() < 0.02


def test_a_cut_chest_goes_on_beyond_the_border(shown: np.ndarray, made: Radiograph) -> None:
    first = int(np.flatnonzero((made.right | made.left).any(0))[0])
    cut = load().look(np.ascontiguousarray(shown[:, first + 10 :]))
    assert cut.margins is not None
    assert cut.margins.left < -0.02
    assert cut.margins.top > 0.02


@pytest.mark.parametrize("shape", [(160, 90), (90, 160), (40, 900), (33, 33)])
def test_any_shape_is_looked_at(shape: tuple[int, int]) -> None:
    found = load().look(np.random.default_rng(1).random(shape, dtype=np.float32))
    assert max(found.right.shape) == INNER
    assert found.chest < 0.5


@pytest.mark.parametrize(
    "bad", [np.zeros((20, 200), np.float32), np.zeros(4000, np.float32), np.full((64, 64), np.nan, np.float32)]
)
def test_what_is_no_picture_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows and columns"):
        load().look(bad)


def test_names_of_mirrored_orientations_belong_together() -> None:
    picture = np.arange(12).reshape(3, 4)
    for n, m in enumerate(FLIPPED):
        one = np.rot90(picture[:, ::-1] if n >= 4 else picture, n % 4)[:, ::-1]
        assert (one == np.rot90(picture[:, ::-1] if m >= 4 else picture, m % 4)).all()


def test_other_weights_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.toml", "weights.safetensors"):
        (tmp_path / name).write_bytes((PACKAGE / name).read_bytes())
    raw = bytearray((tmp_path / "weights.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(bytes(raw))
    monkeypatch.setattr(model, "files", lambda _: tmp_path)
    with pytest.raises(PipelineFailed) as refused:
        load.__wrapped__()
    assert refused.value.reason.code == "weights-not-named"


def test_a_layer_of_another_shape_is_named() -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes().items()}
    with pytest.raises(ValueError, match=r"e3\.weight"):
        Network(weights | {"e3.weight": np.zeros((1, 1, 3, 3), np.float32)})


def test_the_card_says_what_the_model_was_measured_to_do() -> None:
    about = tomllib.loads((PACKAGE / "model.toml").read_text(encoding="utf-8"))
    card = (PACKAGE / "CARD.md").read_text(encoding="utf-8")
    assert about["sha256"] in card
    figures = {(f["what"], f["source"]): (f["yes"], f["of"]) for f in about["figure"]}
    rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| (\d+) of (\d+) \|", card, re.MULTILINE)
    assert len(rows) > 20
    for what, source, yes, of in rows:
        assert figures[what, source] == (int(yes), int(of)), (what, source)
    values = {(v["what"], v["source"]): (v["mean"], v["sd"], v["of"]) for v in about["value"]}
    rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| (-?[\d.]+) ± ([\d.]+) \| (\d+) \|", card, re.MULTILINE)
    assert len(rows) > 5
    for what, source, mean, spread, of in rows:
        assert values[what, source] == (float(mean), float(spread), int(of)), (what, source)


def test_numpy_computes_what_torch_learned() -> None:
    torch = pytest.importorskip("torch")
    from pipeline.quality.cxr.recipe.torch_network import TorchNetwork, folded

    torch.manual_seed(3)
    net = TorchNetwork()
    for norm in net.norms.values():
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
    canvas = torch.randn(1, 2, 192, 192)
    with torch.no_grad():
        head, lungs = net.eval()(canvas)
    answer = Network(folded(net.state_dict())).run(canvas[0].numpy())
    np.testing.assert_allclose(answer.head, head[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(answer.lungs, lungs[0].numpy(), atol=1e-3)
