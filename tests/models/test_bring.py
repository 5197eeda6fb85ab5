"""What is taken in, and what is not: every attack ends with a reason, and with nothing in the folder."""

import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineFailed
from pipeline.models import description, network, toml
from pipeline.models.errors import ModelRefused
from pipeline.models.shelf import Broken, Installed, Shelf
from tests.models import makers

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "models")


def refused(shelf: Shelf, source: Path, **more: Any) -> str:
    """Add `source` as the command does, see it refused, and that nothing is left; return why."""
    before = sorted(shelf.folder.rglob("*"))
    with pytest.raises(PipelineFailed) as caught:
        shelf.add(source, trial=lambda i: void(network.load(i, CPU)), **more)
    assert sorted(shelf.folder.rglob("*")) == before
    assert caught.value.reason.code in {"model-refused", "model-description-wrong"}
    return caught.value.reason.text["en"]


def void(_value: object) -> None:
    """Say that a value is not wanted."""


def zipped(folder: Path, into: Path, *more: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
        for name, data in more:
            archive.writestr(name, data)
    return into


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_bundle_comes_as_folder_or_zip_and_only_what_is_named_stays(
    shelf: Shelf, tmp_path: Path, wrapped: bool
) -> None:
    bundle = makers.bundle(tmp_path / ("in/bundle" if wrapped else "in"))
    (bundle / "docs").mkdir()
    (bundle / "docs" / "README.md").write_text("not kept")
    installed = shelf.add(zipped(tmp_path / "in", tmp_path / "b.zip"))
    kept = {p.relative_to(installed.folder).as_posix() for p in installed.folder.rglob("*") if p.is_file()}
    assert kept == {"model.toml", "model.sha256", "models/model.pt"}
    said = installed.model
    assert (said.network is not None and said.network.target, said.input.tile) == ("UNet", (32, 32, 32))
    assert (said.output.choose, said.output.activation, said.version) == ("argmax", "softmax", "0.3.0")
    installed.verify()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.txt", "leads out"), ("/x/evil.txt", "leads out"), ("a/../../evil.txt", "leads out"),
        ("a\\..\\evil.txt", "leads out"), ("C:evil.txt", "leads out"), ("MODEL.TOML", "twice"), ("a\nb", "no plain file name"),
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(shelf: Shelf, tmp_path: Path, name: str, why: str) -> None:
    source = zipped(makers.onnx(tmp_path / "in"), tmp_path / "b.zip", (name, b"evil"))
    assert why in refused(shelf, source)
    assert not list(tmp_path.rglob("evil*"))


def test_no_link_is_followed(shelf: Shelf, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    assert "link" in refused(shelf, zipped(makers.onnx(tmp_path / "a"), tmp_path / "b.zip", (link("x"), bytes(secret))))
    folder = makers.onnx(tmp_path / "c")
    (folder / "x").symlink_to(secret)
    assert "link" in refused(shelf, folder)
    (folder / "x").unlink()
    os.mkfifo(folder / "x")
    assert "no plain file" in refused(shelf, folder)


def test_a_huge_archive_is_refused_before_it_is_written(shelf: Shelf, tmp_path: Path) -> None:
    source = zipped(makers.onnx(tmp_path / "a"), tmp_path / "b.zip", ("zeros", bytes(20 << 20)))
    assert source.stat().st_size < 1 << 20
    assert "far more than it holds" in refused(shelf, source)
    many = zipped(makers.onnx(tmp_path / "c"), tmp_path / "d.zip", *((f"n{k}", b"") for k in range(2001)))
    assert "more than 2000 files" in refused(shelf, many)


def test_a_broken_archive_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    source = zipped(makers.onnx(tmp_path / "a"), tmp_path / "b.zip")
    data = bytearray(source.read_bytes())
    data[80:120] = bytes(range(40))
    source.write_bytes(data)
    refused(shelf, source)


NET = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}


@pytest.mark.parametrize(
    "config",
    [
        {"imports": ["$import os"]},
        {"initialize": ["$__import__('os').system('touch evil')"]},
        {"any": "$import os"},
        {"any": {"deep": [" $os.getcwd()"]}},
        {"network_def": {**NET, "act": "$__import__('os').system('touch evil')"}},
        {"network_def": {**NET, "_requires_": "$open('evil', 'w')"}},
        {"network_def": {**NET, "_disabled_": "$open('evil', 'w')"}},
        {"network_def": {"_target_": "os.system", "command": "touch evil"}},
        {"network_def": {"_target_": "monai.networks.nets.torch.hub.load", "repo_or_dir": "x"}},
        {"network_def": {"_target_": "monai.networks.nets.EfficientNetBN", "model_name": "efficientnet-b0"}},
        {"network_def": {**NET, "pretrained": True}},
        {"network_def": {**NET, "act": {"_target_": "os.system", "command": "touch evil"}}},
        {"network_def": {**NET, "channels": [4, 10**9]}},
        {"network_def": {**NET, "channels": [4] * 1000}},
        {"network_def": {**NET, "out_channels": 10**6}},
        {"network_def": {**NET, "strides": []}},
        {"network_def": "@other", "other": "@network_def"},
        {"network_def": "%other.json::network_def"},
        {"preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Lambdad", "keys": "x", "func": "eval"}]}},
        {"preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "LoadImaged", "keys": "x", "reader": "evil.Reader"}]}},
        {"inferer": {"_target_": "builtins.exec", "source": "1"}},
        {"postprocessing": {"_target_": "os.system", "command": "touch evil"}},
    ],
    ids=lambda config: json.dumps(config)[:60],
)  # fmt: skip
def test_a_configuration_that_asks_for_code_is_refused(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(shelf, makers.bundle(tmp_path / "in", config=config))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["configs/logging.conf", "scripts/net.py", "configs/inference.yaml", "models/x.pkl"])
def test_a_bundle_with_programs_is_refused(shelf: Shelf, tmp_path: Path, name: str) -> None:
    folder = makers.bundle(tmp_path / "in")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("[loggers]\nkeys=root\n")
    assert name in refused(shelf, folder)


def test_a_person_may_describe_a_bundle_whose_configuration_is_code(shelf: Shelf, tmp_path: Path) -> None:
    folder = makers.bundle(tmp_path / "in", config={"imports": ["$import os"]})
    said = description.table(folder / "model.toml")
    said |= {"format": "monai", "weights": "models/model.pt", "version": "1"}
    said["network"] = {"target": "UNet", "arguments": {k: v for k, v in NET.items() if k != "_target_"} | {"num_res_units": 0, "act": "RELU", "norm": "BATCH"}}  # fmt: skip
    said["input"] = makers.described()["input"]
    said["output"] = {"channels": 2, "choose": "argmax", "activation": "softmax"}
    (folder / "model.toml").write_text(toml.dump(said))
    installed = shelf.add(folder)
    assert {p.name for p in installed.folder.rglob("*.*")} == {"model.toml", "model.sha256", "model.pt"}
    network.load(installed, CPU)


class _Evil:
    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._place),)


@pytest.mark.parametrize("inside", [False, True])
def test_pickled_code_in_weights_is_not_run(shelf: Shelf, tmp_path: Path, inside: bool) -> None:
    evil = _Evil(tmp_path / "evil")
    folder = makers.bundle(tmp_path / "in", weights=False)
    weights: Any = {**makers.passing_unet().state_dict(), "x": evil} if inside else evil
    torch.save(weights, folder / "models" / "model.pt")
    assert "other than tensors" in refused(shelf, folder)
    assert not (tmp_path / "evil").exists()


def test_weights_of_another_network_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    folder = makers.bundle(tmp_path / "in", weights=False)
    torch.save({"a": torch.zeros(1)}, folder / "models" / "model.pt")
    assert "does not fit" in refused(shelf, folder)


def test_a_bundle_may_bring_safetensors(shelf: Shelf, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = makers.bundle(tmp_path / "in", weights=False)
    save_file(makers.passing_unet().state_dict(), folder / "models" / "model.safetensors")
    installed = shelf.add(folder)
    network.load(installed, CPU)
    (folder / "models" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      junk")
    refused(shelf, folder, replace=True)


class _Reads(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", shared=False, size=4).sum()


def test_torchscript_that_opens_files_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    assert "from_file" in refused(shelf, makers.torchscript(tmp_path / "in", _Reads()))
    junk = makers.torchscript(tmp_path / "junk")
    (junk / "model.ts").write_bytes(b"no zip")
    assert "no TorchScript" in refused(shelf, junk)


EXTERNAL = makers.field(14, 1) + makers.field(13, makers.field(1, "location") + makers.field(2, "../../etc/passwd"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (makers.bright_onnx(extra=EXTERNAL), "other files"),
        (makers.bright_onnx(domain="evil.ops"), "another library"),
        (b"no graph", "no ONNX"),
        (b"", "no graph"),
        (makers.bright_onnx()[:-7], "no ONNX"),
    ],
)  # fmt: skip
def test_onnx_that_reaches_out_of_its_file_is_refused(shelf: Shelf, tmp_path: Path, data: bytes, why: str) -> None:
    assert why in refused(shelf, makers.onnx(tmp_path / "in", data))


def test_a_file_that_was_changed_computes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    installed = shelf.add(makers.torchscript(tmp_path / "in"))
    weights = installed.folder / "model.ts"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    for use in (installed.verify, lambda: void(network.load(installed, CPU))):
        with pytest.raises(PipelineFailed) as caught:
            use()
        assert caught.value.reason.code == "model-changed"
    data[-1] ^= 1
    weights.write_bytes(data)
    installed.verify()
    (installed.folder / "more.py").write_text("")
    with pytest.raises(PipelineFailed, match=r"more\.py"):
        installed.verify()


def test_a_digest_that_the_maker_states_must_be_right(shelf: Shelf, tmp_path: Path) -> None:
    folder = makers.torchscript(tmp_path / "in", files={"model.ts": "sha256:" + "0" * 64}, weights="model.ts")
    with pytest.raises(PipelineFailed) as caught:
        shelf.add(folder)
    assert caught.value.reason.code == "model-changed"
    assert not list(shelf.folder.iterdir())


def test_names_are_not_taken_twice(shelf: Shelf, tmp_path: Path) -> None:
    folder = makers.torchscript(tmp_path / "in", name="chest_ct")
    assert "comes with this program" in refused(shelf, folder, taken=frozenset({"chest_ct"}))
    first = shelf.add(folder)
    assert "installed already" in refused(shelf, folder)
    makers.write_description(folder, name="chest_ct", version="2")
    second = shelf.add(folder, replace=True)
    assert (first.digest != second.digest, second.model.version) == (True, "2")
    shelf.remove("chest_ct")
    assert list(shelf) == []
    for name in ("chest_ct", "..", "a/b", ".hidden"):
        with pytest.raises(PipelineFailed, match="no model"):
            shelf.remove(name)


def test_a_broken_model_hides_no_other_and_says_why(shelf: Shelf, tmp_path: Path) -> None:
    shelf.add(makers.torchscript(tmp_path / "in"))
    (shelf.folder / "broken").mkdir()
    (shelf.folder / "broken" / "model.toml").write_text("name = 1")
    broken, good = list(shelf)
    assert isinstance(broken, Broken)
    assert isinstance(good, Installed)
    assert broken.error.reason.code == "model-description-wrong"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"colour": "red"}, "colour"),
        ({"name": "Bad Name"}, "name"),
        ({"modalities": ["DX"]}, "modalities"),
        ({"input": {"orientation": "RAL"}}, "input.orientation"),
        ({"input": {"tile": [32, 32]}}, "input.tile"),
        ({"input": {"tile": [30, 32, 32], "multiple": 4}}, "input.multiple"),
        ({"input": {"size": [8, 8, 8], "spacing": [1.0, 1.0, 1.0]}}, "input.size"),
        ({"output": {"channels": 2, "choose": "argmax"}}, "label.0.index"),
        ({"output": {"channels": 1, "activation": "softmax"}}, "output.activation"),
        ({"label": [{**makers.LABEL, "index": 3}]}, "label.0.index"),
        ({"label": [{**makers.LABEL, "text": {"en": "Tissue"}}]}, "label.0.text"),
        ({"label": [{**makers.LABEL, "name": "lungs"}]}, "label.0.name"),
        ({"label": [{**makers.LABEL, "type": ["1", "99HERE", "Mine"]}]}, "label.0.type"),
        ({"label": []}, "label"),
        ({"licence": ""}, "licence"),
        ({"network": {"target": "UNet"}}, "network"),
        ({"files": {"../model.ts": "sha256:" + "0" * 64}}, "files.../model.ts"),
        ({"weights": "other.ts"}, "weights"),
    ],
)  # fmt: skip
def test_a_description_is_read_strictly(shelf: Shelf, tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    assert f" {key}:" in refused(shelf, makers.torchscript(tmp_path / "in", **changes))


def test_a_description_comes_back_as_it_was_written() -> None:
    said = description.parse(
        {**makers.described(), "schema": description.SCHEMA, "format": "torchscript", "weights": "model.ts",
         "files": {"model.ts": "sha256:" + "0" * 64}}
    )  # fmt: skip
    import tomllib

    assert description.parse(tomllib.loads(toml.dump(said.as_table()))) == said
    odd = {"a b": 'quote " and \\ and \n and \x7f 中', "n": [1, 2.5, True], "t": [{"x": [{"y": 1}]}], "e": {}}
    assert tomllib.loads(toml.dump(odd)) == odd


def test_what_a_network_returns_is_named() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    assert set(network.named([{"boxes": one, "scores": other}])) == {"boxes", "scores"}
    assert set(network.named((one, other))) == {"0", "1"}
    assert network.named("nothing") == {}
    assert np.array_equal(network.named(other)["0"], [1.0])


def test_the_refusal_is_one_of_the_pipelines_errors() -> None:
    assert issubclass(ModelRefused, PipelineFailed)
