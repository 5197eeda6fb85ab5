"""A MONAI bundle's configuration as tables of a ``model.toml``: read as data, never run.

A bundle's configuration can name any Python callable, hold expressions behind ``$`` and point at a configuration of logging that
runs code. This reader knows a list of classes and their arguments (``allowed.toml``), follows plain references, and refuses
everything else. What it returns is written down as ``model.toml``; the bundle's own files but the weights are not kept.

References
----------
MONAI bundle specification (docs.monai.io, "MONAI Bundle Specification" and "Bundle Configuration"), MONAI 1.6.
"""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline.models.errors import refused
from pipeline.models.limits import limits

CONFIG, METADATA = Path("configs/inference.json"), Path("configs/metadata.json")
_WEIGHTS = ("models/model.safetensors", "models/model.pt", "models/model.pth")
_CODE_KEYS = frozenset({"imports", "initialize", "run", "finalize", "_requires_", "_disabled_", "_mode_"})
_CODE_FILES = (".py", ".pyc", ".so", ".sh", ".pkl", ".pickle", ".ipynb")
_HINT = "; say in a model.toml what the network is, and bring that with the weights alone"


@cache
def allowed() -> Mapping[str, Mapping[str, list[str]]]:
    """Return what may be named: kind to class to arguments."""
    return tomllib.loads(files("pipeline.models").joinpath("allowed.toml").read_text(encoding="utf-8"))


def is_bundle(folder: Path) -> bool:
    """Whether there is a folder of configurations, as MONAI bundles have it."""
    return (folder / "configs").is_dir()


def read(folder: Path) -> dict[str, Any]:
    """Return what the bundle in `folder` says, as tables of a ``model.toml``; labels and codes a bundle does not have.

    Raises
    ------
    ModelRefused
        If it holds code, or names what is not on the list.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.lower() == "logging.conf":
            raise refused(name, "a configuration of logging can run code" + _HINT)
        if path.suffix.lower() in _CODE_FILES:
            raise refused(name, "is a program" + _HINT)
        if path.parent.name == "configs" and path.suffix.lower() in {".yaml", ".yml"}:
            raise refused(name, "only configurations in JSON are read" + _HINT)
    config, metadata = _Config(folder, CONFIG), _Config(folder, METADATA)
    network = config.part("network_def")
    said = {
        "format": "monai",
        "weights": _weights(folder),
        "network": _network(network),
        "input": _input(config, metadata),
        "output": _output(config, metadata),
    }
    said |= {key: str(metadata.data[key]) for key in ("version",) if key in metadata.data}
    if licence := metadata.data.get("license") or metadata.data.get("licence"):
        said["licence"] = str(licence)
    return said


def check_network(target: str, arguments: Mapping[str, Any]) -> str:
    """Return the class of monai.networks.nets that `target` names, if it may be built with `arguments`.

    Raises
    ------
    ModelRefused
        If it may not.
    """
    name = _class(target, "network", ("", "monai.networks.nets."))
    _known(name, arguments, "network")
    _plain(arguments, f"network {name}")
    return name


class _Config:
    """One JSON file of a bundle, checked for code as a whole before any of it is used."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.file = file.as_posix()
        self.data = _json(folder / file, self.file)
        _no_code(self.data, self.file, 0)

    def part(self, key: str) -> Mapping[str, Any]:
        """Return a table of the configuration, references in it followed."""
        if key not in self.data:
            raise refused(f"{self.file}: {key}", "is missing" + _HINT)
        found = self.follow(self.data[key], key)
        if not isinstance(found, Mapping):
            raise refused(f"{self.file}: {key}", "is no table")
        return found

    def follow(self, value: Any, at: str) -> Any:  # noqa: ANN401 - any value of JSON
        """Replace references (``@key``, ``@key::other``) by what they mean."""
        self._left = limits()["text"]["references"]
        return self._followed(value, at, ())

    def _followed(self, value: Any, at: str, trail: tuple[str, ...]) -> Any:  # noqa: ANN401 - as above
        if isinstance(value, Mapping):
            return {k: self._followed(v, f"{at}::{k}", trail) for k, v in value.items()}
        if isinstance(value, list):
            return [self._followed(v, f"{at}::{n}", trail) for n, v in enumerate(value)]
        if not isinstance(value, str) or not value.startswith("@"):
            return value
        self._left -= 1
        if value in trail or self._left < 0:
            raise refused(f"{self.file}: {at}", "refers to itself")
        found: Any = self.data
        for part in value[1:].replace("#", "::").split("::"):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise refused(f"{self.file}: {at}", f"refers to {value[:60]}, which is not there") from error
        return self._followed(found, at, (*trail, value))


def _json(path: Path, name: str) -> dict[str, Any]:
    most = limits()["text"]["bytes"]
    try:
        with path.open("rb") as opened:
            text = opened.read(most + 1)
    except OSError as error:
        raise refused(name, "is missing: a bundle needs it" + _HINT) from error
    if len(text) > most:
        raise refused(name, f"is longer than {most} bytes")
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refused(name, "is not JSON") from error
    if not isinstance(data, dict):
        raise refused(name, "is no table")
    return data


def _no_constant(text: str) -> float:
    raise ValueError(text)


def _no_code(value: Any, at: str, depth: int) -> None:  # noqa: ANN401 - any value of JSON
    if depth > limits()["text"]["depth"]:
        raise refused(at, "is nested too deeply")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in _CODE_KEYS or key.startswith(("$", "%")):
                raise refused(f"{at}: {key[:60]}", "asks for code to be run" + _HINT)
            _no_code(inner, f"{at}: {key[:60]}", depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _no_code(inner, at, depth + 1)
    elif isinstance(value, str) and (value.lstrip().startswith(("$", "%")) or "$import" in value):
        raise refused(at, "holds an expression ($) or a macro (%)" + _HINT)


def _class(target: object, kind: str, roots: tuple[str, ...]) -> str:
    """Return the name of a class without its module, if `kind` of the list has it."""
    if not isinstance(target, str):
        raise refused(kind, "has no _target_")
    name = next((target.removeprefix(root) for root in reversed(roots) if target.startswith(root)), "")
    bare = name.removesuffix("d") if kind.endswith("processing") and name not in allowed()[kind] else name
    if bare not in allowed()[kind]:
        raise refused(f"{kind}: {target[:80]}", "is not on the list of what is allowed" + _HINT)
    return bare


def _known(name: str, arguments: Mapping[str, Any], kind: str) -> None:
    if unknown := sorted(set(arguments) - set(allowed()[kind][name])):
        raise refused(f"{kind} {name}: {unknown[0][:60]}", "is not on the list of what is allowed" + _HINT)


def _plain(value: Any, at: str, depth: int = 0) -> None:  # noqa: ANN401 - any value of JSON
    """Refuse what is no number, word, list or table of such, or makes a network of a size that nobody wants."""
    bounds = limits()["network"]
    if depth > limits()["text"]["depth"]:
        raise refused(at, "is nested too deeply")
    if isinstance(value, Mapping):
        if "_target_" in value:
            raise refused(at, "names a class inside its arguments" + _HINT)
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        if len(value) > bounds["items"]:
            raise refused(at, f"a list of more than {bounds['items']}")
        for inner in value:
            _plain(inner, at, depth + 1)
    elif isinstance(value, (int, float)) and not abs(value) <= bounds["number"]:
        raise refused(at, f"{value:g} is larger than {bounds['number']}")
    elif isinstance(value, str) and (len(value) > 64 or value.startswith(("$", "@", "%"))):
        raise refused(at, "holds a text that is no name")


def _network(said: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {k: v for k, v in said.items() if k != "_target_"}
    name = check_network(str(said.get("_target_", "")), arguments)
    return {"target": name, "arguments": arguments}


def _weights(folder: Path) -> str:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return name
    raise refused("models", f"none of {', '.join(_WEIGHTS)} is there")


def _transforms(config: _Config, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield class and arguments of every transform of a list, in order."""
    if key not in config.data:
        return
    said = config.data[key]
    rows = said.get("transforms") if isinstance(said, Mapping) else said
    if isinstance(said, Mapping):
        _known(_class(said.get("_target_"), key, _TRANSFORMS), {k: v for k, v in said.items() if k != "_target_"}, key)
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, Mapping):
            raise refused(f"{config.file}: {key}", "holds what is no transform")
        name = _class(row.get("_target_"), key, _TRANSFORMS)
        arguments = {k: v for k, v in row.items() if k != "_target_"}
        _known(name, arguments, key)
        # what is only said to be undone or saved is not looked at
        yield name, arguments if name in {"Invert", "SaveImage"} else config.follow(arguments, f"{key}::{name}")


_TRANSFORMS = ("", "monai.transforms.")


def _input(config: _Config, metadata: _Config) -> dict[str, Any]:
    image = _format(metadata, "inputs", "image")
    said: dict[str, Any] = {"kind": "volume", "orientation": "RAS", "channels": int(image.get("num_channels", 1))}
    if len(image.get("spatial_shape") or (0, 0, 0)) != 3:
        raise refused(METADATA.as_posix(), "only bundles for volumes are read" + _HINT)
    steps: list[dict[str, Any]] = []
    for name, row in _transforms(config, "preprocessing"):
        if name == "Orientation":
            said["orientation"] = str(row.get("axcodes"))
        elif name == "Spacing":
            said["spacing"] = _numbers(row.get("pixdim"), f"{name}: pixdim")
        elif name in _STEPS:
            steps.append(_STEPS[name](row))
    if steps:
        said["normalise"] = steps
    return said | _inferer(config)


def _range(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "range", "low": _number(row, "a_min"), "high": _number(row, "a_max"), "to_low": _number(row, "b_min", 0.0),
        "to_high": _number(row, "b_max", 1.0), "clip": bool(row.get("clip", False)),
    }  # fmt: skip


def _minmax(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "minmax", "to_low": _number(row, "minv", 0.0), "to_high": _number(row, "maxv", 1.0)}


def _normal(row: Mapping[str, Any]) -> dict[str, Any]:
    if row.get("subtrahend") is None and row.get("divisor") is None:
        return {"kind": "zscore", "nonzero": bool(row.get("nonzero", False))}
    if row.get("nonzero"):
        raise refused("NormalizeIntensity: nonzero", "with numbers of its own is not read" + _HINT)
    return {"kind": "shift", "subtract": _number(row, "subtrahend", 0.0), "divide": _number(row, "divisor", 1.0)}


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "ScaleIntensityRange": _range, "ScaleIntensity": _minmax, "NormalizeIntensity": _normal,
}  # fmt: skip


def _inferer(config: _Config) -> dict[str, Any]:
    if "inferer" not in config.data:
        return {}
    row = config.part("inferer")
    name = _class(row.get("_target_"), "inferer", ("", "monai.inferers."))
    _known(name, {k: v for k, v in row.items() if k != "_target_"}, "inferer")
    if name == "SimpleInferer":
        return {}
    tile = [int(n) for n in _numbers(row.get("roi_size"), "inferer: roi_size")]
    return {"tile": tile, "overlap": min(_number(row, "overlap", 0.25), 0.9)}


def _output(config: _Config, metadata: _Config) -> dict[str, Any]:
    pred = _format(metadata, "outputs", "pred")
    said: dict[str, Any] = {"channels": int(pred.get("num_channels", 1)), "activation": "none", "choose": "threshold"}
    for name, row in _transforms(config, "postprocessing"):
        if name == "Activations":
            said["activation"] = "softmax" if row.get("softmax") else "sigmoid" if row.get("sigmoid") else "none"
        elif name == "AsDiscrete":
            if row.get("argmax"):
                said["choose"] = "argmax"
            elif row.get("threshold") is not None:
                said["threshold"] = _number(row, "threshold")
    if said["choose"] == "argmax" and said["activation"] == "none":
        said["activation"] = "softmax"  # the highest stays the highest, and windows are blended as probabilities
    return said


def _format(metadata: _Config, side: str, name: str) -> Mapping[str, Any]:
    found: Any = metadata.data
    for key in ("network_data_format", side, name):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise refused(f"{METADATA.as_posix()}: network_data_format", f"says nothing of {side}: {name}" + _HINT)
    return found


def _number(row: Mapping[str, Any], key: str, otherwise: float | None = None) -> float:
    value = row.get(key, otherwise)
    value = otherwise if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refused(key, "is no number" + _HINT)
    return float(value)


def _numbers(value: Any, at: str) -> list[float]:  # noqa: ANN401 - any value of JSON
    if not isinstance(value, list) or len(value) != 3 or not all(_is_number(n) for n in value):
        raise refused(at, "needs three numbers" + _HINT)
    return [float(n) for n in value]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
