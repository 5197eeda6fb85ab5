"""Models that are brought to do harm, or that are no good: each refused, or its failure told."""

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from node.cli._models import tried
from pipeline.errors import PipelineFailed
from pipeline.models import network
from pipeline.models.shelf import Broken, Shelf
from tests.models import makers

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.chdir(tmp_path)
    return Shelf(tmp_path / "models")


def refused(shelf: Shelf, source: Path, code: str = "model-refused", trial: Any = None) -> str:
    """Add `source`, see it refused with nothing left and nothing written; return why."""
    with pytest.raises(PipelineFailed) as caught:
        shelf.add(source, trial=trial or (lambda installed: (network.load(installed, CPU), None)[1]))
    assert caught.value.reason.code == code, caught.value
    assert not list(shelf.folder.iterdir())
    assert not list(Path.cwd().glob("evil*"))
    return caught.value.reason.text["en"]


def runs(shelf: Shelf, source: Path) -> dict[str, Any]:
    """Add `source` as the command does; return what it gave on a phantom."""
    told: dict[str, Any] = {}
    shelf.add(source, trial=lambda installed: told.update(tried(installed, "cpu")))
    return told


def edited(data: bytes, change: Callable[[str, bytes], tuple[str, bytes]]) -> bytes:
    """Return a zip archive with every file changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(out, "w") as written:
        for info in given.infolist():
            written.writestr(*change(info.filename, given.read(info)))
    return out.getvalue()


def script(tmp_path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Write a folder with a TorchScript model whose file was changed."""
    folder = makers.torchscript(tmp_path / "in")
    (folder / "model.ts").write_bytes(change((folder / "model.ts").read_bytes()))
    return folder


def with_line(line: str) -> Callable[[bytes], bytes]:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        return name, data.replace(b"    _0 =", line.encode() + b"\n    _0 =") if name.endswith(".py") else data

    return lambda data: edited(data, change)


SAVES = [
    'torch.save(x, "evil")', 'ops.aten.save(x, "evil")', 'torch . save(x, "evil")', 'torch.\\\n save(x, "evil")',
    'a = torch\n    a.save(x, "evil")', 'getattr(torch, "sa" "ve")(x, "evil")', 'getattr(torch, "s\\141ve")(x, "evil")',
    'getattr(torch, "sa" # \n "ve")(x, "evil")', 'ops . profiler._record_function_enter("evil", None)',
]  # fmt: skip


@pytest.mark.parametrize("line", SAVES)
def test_a_program_that_writes_files_is_refused_however_it_is_spelled(shelf: Shelf, tmp_path: Path, line: str) -> None:
    assert "its program" in refused(shelf, script(tmp_path, with_line("    " + line)))


def test_a_program_that_torch_finds_and_we_do_not_is_not_there_for_torch(shelf: Shelf, tmp_path: Path) -> None:
    """The reader of torch does not mind case: a program in CODE would be run."""

    def hidden(data: bytes) -> bytes:
        return edited(with_line('    torch.save(x, "evil")')(data), lambda n, d: (n.replace("code/", "CODE/"), d))

    def beside(data: bytes) -> bytes:
        parts = edited(with_line('    torch.save(x, "evil")')(data), lambda n, d: (n.replace(".py", ".PY"), d))
        out = io.BytesIO(data)
        with zipfile.ZipFile(io.BytesIO(parts)) as more, zipfile.ZipFile(out, "a") as written:
            for name in more.namelist():
                written.writestr(name, more.read(name)) if ".PY" in name else None
        return out.getvalue()

    assert "do not have" in refused(shelf, script(tmp_path / "a", hidden))
    assert "two files of one name" in refused(shelf, script(tmp_path / "b", beside))


def test_what_stands_before_an_archive_is_not_loaded(shelf: Shelf, tmp_path: Path) -> None:
    evil = with_line('    torch.save(x, "evil")')
    source = script(tmp_path, lambda data: evil(data) + data)
    assert runs(shelf, source)["segments"] == 1
    assert not (tmp_path / "evil").exists()


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("part", ["data.pkl", "constants.pkl"])
def test_a_pickle_in_torchscript_is_not_run(shelf: Shelf, tmp_path: Path, part: str) -> None:
    import pickle

    code = pickle.dumps(_Evil(), protocol=2)
    source = script(tmp_path, lambda data: edited(data, lambda n, d: (n, code if n.endswith(part) else d)))
    assert "no TorchScript that can be loaded" in refused(shelf, source)


def test_torchscript_that_unpacks_to_far_more_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    def bomb(data: bytes) -> bytes:
        out = io.BytesIO(data)
        with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as written:
            written.writestr("archive/data/9", bytes(80 << 20))
        return out.getvalue()

    assert "far more" in refused(shelf, script(tmp_path, bomb))


@pytest.mark.parametrize(
    "config",
    [
        {"any": [["x", [" $import os"]]]},
        {"any": {"$import os": 1}},
        {"network_def": {"_target_": "monai.networks.nets.unet.importlib.import_module", "name": "os"}},
        {"network_def": {"_target_": "monai.networks.nets.ahnet.torch.load", "f": "evil"}},
        {"network_def": {"_target_": "UNet.__init__.__globals__"}},
        {"network_def": {"_target_": ["UNet"]}},
        {"preprocessing": {"_target_": "monai.transforms.io.array.LoadImage"}},
        {"inferer": {"_target_": "monai.inferers.utils.optional_import", "module": "os"}},
    ],
    ids=lambda config: json.dumps(config)[:60],
)
def test_no_name_leads_through_a_module_to_another(shelf: Shelf, tmp_path: Path, config: dict[str, Any]) -> None:
    refused(shelf, makers.bundle(tmp_path / "in", config=config, weights=False))


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def test_onnx_fields_cannot_hide_behind_long_numbers(shelf: Shelf, tmp_path: Path) -> None:
    """Readers of protocol buffers cut keys to 32 bits: the number is that of external data."""
    entry = makers.field(1, "location") + makers.field(2, "/etc/passwd")
    hidden = varint((13 << 3 | 2) + (1 << 32)) + varint(len(entry)) + entry
    source = makers.onnx(tmp_path / "in", makers.bright_onnx(extra=hidden))
    assert "no ONNX file" in refused(shelf, source)


def huge(tmp_path: Path, form: str) -> Path:
    """Write a model that states tensors of 4 TiB and holds next to nothing."""
    if form == "onnx":
        dims = makers.field(1, 1 << 40) + makers.field(2, 1) + makers.field(8, "at") + makers.field(9, bytes(4))
        data = makers.onnx_model(
            [makers.node("Sub", ["in", "at"], ["out"])], [dims], [makers.value_info("in", ["n"])], [makers.value_info("out", ["n"])],
        )  # fmt: skip
        return makers.onnx(tmp_path / "in", data)
    folder = makers.bundle(tmp_path / "in", weights=False)
    if form == "strided":
        torch.save({"x": torch.zeros(1).expand(1 << 40)}, folder / "models" / "model.pt")
    else:
        header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
        (folder / "models" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


@pytest.mark.parametrize("form", ["onnx", "strided", "safetensors"])
def test_tensors_that_are_only_stated_take_no_memory(shelf: Shelf, tmp_path: Path, form: str) -> None:
    refused(shelf, huge(tmp_path, form))


def test_a_description_that_was_edited_computes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    installed = shelf.add(makers.torchscript(tmp_path / "in"))
    file = installed.folder / "model.toml"
    text = file.read_text()
    file.write_text(text.replace('"RAS"', '"LAS"'))
    (broken,) = shelf
    assert isinstance(broken, Broken)
    assert broken.error.reason.code == "model-changed"
    file.write_text(text)
    assert shelf.get("tissue_threshold").digest == installed.digest
    shutil.copytree(installed.folder, shelf.folder / "other", ignore=shutil.ignore_patterns("*.sha256"))
    (shelf.folder / "other" / "model.toml").write_text(text.replace('"tissue_threshold"', '"other"'))
    with pytest.raises(PipelineFailed, match="model-changed"):
        shelf.get("other")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"type": ["", "", ""]}, "type"),
        ({"type": ["1\\2", "SCT", "Soft tissue"]}, "type"),
        ({"type": ["87784001", "SCT", "Soft\\tissue"]}, "type"),
        ({"type": ["87784001", "SCT", " "]}, "type"),
        ({"anatomy": ["1", "S\nCT", "x"]}, "anatomy"),
        ({"text": {"en": "a\\b", "zh-CN": "组织"}}, "text"),
        ({"text": {"en": "a" * 49, "zh-CN": "组织"}}, "text"),
    ],
)
def test_codes_and_names_are_single_values(shelf: Shelf, tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    source = makers.torchscript(tmp_path / "in", label=[{**makers.LABEL, **changes}])
    assert f" label.0.{key}:" in refused(shelf, source, "model-description-wrong")


class Constant(torch.nn.Module):
    """The same number everywhere, whatever the image is."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0 + self.value


class Unsure(torch.nn.Module):
    """A box with a score that is no number."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        corners = torch.tensor([[1.0, 1.0, 1.0, 5.0, 5.0, 5.0]])
        return {"boxes": corners, "scores": x.flatten()[:1] * float("nan"), "labels": torch.zeros(1, dtype=torch.int64)}


class Breaks(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] == 7, "another size"
        return x


def test_numbers_that_are_none_are_a_failure_and_no_absence(shelf: Shelf, tmp_path: Path) -> None:
    def trial(installed: Any) -> None:
        tried(installed, "cpu")

    code = "model-output-unexpected"
    assert "NaN" in refused(shelf, makers.torchscript(tmp_path / "a", Constant(float("nan"))), code, trial)
    logits = makers.torchscript(tmp_path / "l", output={"activation": "none"})  # taken for probabilities
    assert "0 to 1" in refused(shelf, logits, code, trial)
    label = {**makers.LABEL, "finding": True}
    boxes = makers.torchscript(tmp_path / "b", Unsure(), task="detection", output={"form": "boxes"}, label=[label])
    refused(shelf, boxes, code, trial)
    folder = makers.bundle(tmp_path / "c", weights=False)
    state = makers.passing_unet().state_dict()
    state["model.2.conv.weight"][:] = float("nan")
    torch.save(state, folder / "models" / "model.pt")
    refused(shelf, folder, code, trial)


def broken_onnx() -> Iterator[bytes]:
    """Yield graphs that load and fail: of another size, and with more memory than there is."""
    fixed = [makers.value_info("in", [1, 1, 3, 3, 3])], [makers.value_info("out", [1, 1, 3, 3, 3])]
    yield makers.onnx_model([makers.node("Neg", ["in"], ["out"])], [], *fixed)
    free = [makers.value_info("in", ["n", 1, "x", "y", "z"])], [makers.value_info("out", ["a"])]
    shape = makers.tensor("shape", np.array([1 << 44], np.int64))
    yield makers.onnx_model([makers.node("ConstantOfShape", ["shape"], ["out"])], [shape], *free)


def test_a_network_that_fails_says_so(shelf: Shelf, tmp_path: Path) -> None:
    def trial(installed: Any) -> None:
        tried(installed, "cpu")

    refused(shelf, makers.torchscript(tmp_path / "a", Breaks()), "model-failed", trial)
    pytest.importorskip("onnxruntime")
    size, memory = broken_onnx()
    refused(shelf, makers.onnx(tmp_path / "b", size), "model-failed", trial)
    refused(shelf, makers.onnx(tmp_path / "c", memory), "device-out-of-memory", trial)


@pytest.mark.parametrize(("value", "segments"), [(-50.0, 0), (50.0, 1)])
def test_nothing_and_everything_are_results(shelf: Shelf, tmp_path: Path, value: float, segments: int) -> None:
    assert runs(shelf, makers.torchscript(tmp_path / "in", Constant(value)))["segments"] == segments
