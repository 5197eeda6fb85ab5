"""The folder of installed models: one folder each, with its ``model.toml`` and the files whose digests stand there.

No torch here: the rooms that only choose images read descriptions alone.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineFailed
from pipeline.models import bundle, description, toml
from pipeline.models.archive import digest, safe_name, take
from pipeline.models.description import FILE, SCHEMA, Model
from pipeline.models.errors import refused, wrong
from pipeline.reasons import REASONS

_FORMATS = {".onnx": "onnx", ".ts": "torchscript"}
_ADDED = "model.sha256"
"""Holds the digest of the description: one that was edited by hand is another model than the one that was tried."""
_MOST = 1000
"""Folders that are looked at."""


@dataclass(frozen=True, slots=True)
class Installed:
    """One model as it stands in its folder.

    Parameters
    ----------
    model : Model
        Its description.
    folder : Path
        Where it stands.
    digest : str
        Of the description as it was read, which has the digests of all other files.
    """

    model: Model
    folder: Path
    digest: str

    @classmethod
    def at(cls, folder: Path) -> "Installed":
        """Read the description in `folder`.

        Raises
        ------
        ModelRefused
            If it is wrong.
        """
        before = digest(folder / FILE)
        model = description.read(folder / FILE)
        if digest(folder / FILE) != before:
            raise wrong("", "was changed while it was read")
        return cls(model, folder, before)

    def read(self, name: str) -> bytes:
        """Return one of its files, whose digest was found right in the very bytes that are returned.

        Raises
        ------
        PipelineFailed
            With the code ``model-changed`` if the file is another than the one that was added.
        """
        try:
            data = (self.folder / safe_name(name)).read_bytes()
        except OSError as error:
            raise self._changed(name) from error
        if "sha256:" + hashlib.sha256(data).hexdigest() != self.model.files[name]:
            raise self._changed(name)
        return data

    def verify(self) -> None:
        """Compare every file with its digest, and see that there is no other.

        Raises
        ------
        PipelineFailed
            With the code ``model-changed``.
        """
        for name, said in self.model.files.items():
            path = self.folder / name
            if path.is_symlink() or not path.is_file() or digest(path) != said:
                raise self._changed(name)
        there = {p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if not p.is_dir()}
        if more := sorted(there - {FILE, _ADDED, *self.model.files}):
            raise self._changed(more[0])

    def _changed(self, name: str) -> PipelineFailed:
        return PipelineFailed(REASONS("model-changed", model=self.model.name, file=name))


@dataclass(frozen=True, slots=True)
class Broken:
    """A folder whose model cannot be used, and why."""

    name: str
    error: PipelineFailed


class Shelf:
    """The models in `folder`, which need not exist.

    Parameters
    ----------
    folder : Path
        ``[models] folder``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __iter__(self) -> Iterator[Installed | Broken]:
        """Yield every model, by name; one that is broken hides no other."""
        names = sorted(p.name for p in self.folder.iterdir() if p.is_dir()) if self.folder.is_dir() else []
        for name in [n for n in names if not n.startswith(".")][:_MOST]:
            try:
                yield self.get(name)
            except PipelineFailed as error:
                yield Broken(name, error)

    def get(self, name: str) -> Installed:
        """Return the model `name`.

        Raises
        ------
        PipelineFailed
            If there is none, or its description is wrong.
        """
        folder = self.folder / name
        if "/" in name or name.startswith(".") or not (folder / FILE).is_file():
            raise PipelineFailed(REASONS("model-not-there", model=name, folder=self.folder))
        found = Installed.at(folder)
        if found.model.name != name:
            raise wrong("name", f"is not that of its folder, {name}")
        added = folder / _ADDED
        if added.is_symlink() or not added.is_file() or added.read_bytes() != f"{found.digest}\n".encode():
            raise PipelineFailed(REASONS("model-changed", model=name, file=FILE))
        return found

    def add(
        self,
        source: Path,
        described: Path | None = None,
        *,
        taken: frozenset[str] = frozenset(),
        replace: bool = False,
        trial: Callable[[Installed], None] = lambda _installed: None,
    ) -> Installed:
        """Take a model in: it stands in the folder whole, or not at all.

        Parameters
        ----------
        source : Path
            Folder or zip file of a MONAI bundle, or with a ``model.toml``; or one file of weights.
        described : Path or None
            A ``model.toml``, or a part of one, which goes before what `source` says of itself.
        taken : frozenset[str]
            Names of pipelines that no model may have.
        replace : bool
            Whether one of the same name goes.
        trial : callable
            Called before the model can be seen; what it raises ends everything.

        Raises
        ------
        ModelRefused
            If something about it is not allowed; the reason says what.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _scratch(self.folder) as scratch:
            brought = scratch / "brought"
            brought.mkdir()
            take(source, brought)
            model = _described(brought, described)
            if model.name in taken:
                raise wrong("name", f"{model.name} is the name of a pipeline that comes with this program")
            place = self.folder / model.name
            if place.exists() and not replace:
                raise wrong("name", f"{model.name} is installed already; add it with --replace, or remove it first")
            ready = _ready(brought, model, scratch / model.name)
            ready.verify()
            trial(ready)
            if place.exists():
                place.rename(scratch / ".old")
            ready.folder.rename(place)
            _sync(self.folder)
        return self.get(model.name)

    def remove(self, name: str) -> None:
        """Take a model away, whole or not at all, also one that is broken.

        Raises
        ------
        PipelineFailed
            With the code ``model-not-there`` if there is none.
        """
        place = self.folder / name
        if "/" in name or name.startswith(".") or place.is_symlink() or not place.is_dir():
            raise PipelineFailed(REASONS("model-not-there", model=name, folder=self.folder))
        with _scratch(self.folder) as scratch:
            place.rename(scratch / "old")
            _sync(self.folder)


def _described(brought: Path, described: Path | None) -> Model:
    """Return what all sources together say: first the file beside it, then its own ``model.toml``, then the bundle."""
    own = brought / FILE
    tables = [description.table(path) for path in (described, own) if path is not None and path.is_file()]
    said: dict[str, Any] = {}
    for data in reversed(tables):
        said = _merged(said, data)
    if bundle.is_bundle(brought) and not ("format" in said and "weights" in said):
        said = _merged(bundle.read(brought), said)
    elif not tables:
        raise refused(FILE, "is missing: it says what the model takes and what its output means")
    said.setdefault("schema", SCHEMA)
    alone = [p for p in brought.iterdir() if p.name != FILE]
    if "weights" not in said and len(alone) == 1 and alone[0].is_file():
        said["weights"] = alone[0].name
    weights = said.get("weights")
    if isinstance(weights, str):
        said.setdefault("format", _FORMATS.get(Path(weights).suffix, "monai"))
        said.setdefault("files", {safe_name(weights): _digest_of(brought, weights)})
    return description.parse(said)


def _digest_of(brought: Path, name: str) -> str:
    if not (brought / name).is_file():
        raise wrong("weights", "is not among what was brought")
    return digest(brought / name)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay tables over each other, key by key; lists are replaced as a whole, and so is a network."""
    out = dict(below)
    for key, value in above.items():
        inner = out.get(key)
        tables = isinstance(inner, Mapping) and isinstance(value, Mapping) and key != "network"
        out[key] = _merged(inner, value) if tables else value  # type: ignore[arg-type] # both are tables
    return out


def _ready(brought: Path, model: Model, folder: Path) -> Installed:
    """Lay out what is kept: the description, and the files that it names; nothing else that was brought."""
    for name in model.files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (brought / name).is_file():
            raise wrong(f"files.{name}", "is not among what was brought")
        shutil.move(brought / name, target)
        target.chmod(0o444)
        _sync(target)
    (folder / FILE).write_text(toml.dump(model.as_table()), encoding="utf-8")
    _sync(folder / FILE)
    written = Installed.at(folder)
    if written.model != model:
        raise refused(FILE, "cannot be written down as it was read")
    (folder / _ADDED).write_text(f"{written.digest}\n", encoding="ascii")
    _sync(folder / _ADDED)
    return written


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a hidden folder on the same file system, and take away what is left in it."""
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=folder) as name:
        yield Path(name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
