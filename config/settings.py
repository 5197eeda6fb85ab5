"""Frozen settings: one dataclass per table of the TOML file, every default in one place.

`config.load` fills them; nothing here reads a file. Secrets have no place in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, Len

from pipeline.options import ChestCtOptions
from sr_writer.options import WriterOptions

_STRICT: dict[str, Any] = {"extra": "forbid"}

AETitle = Annotated[str, Len(1, 16)]
Seconds = Annotated[float, Ge(0.0)]
Port = Annotated[int, Ge(0), Le(65535)]
Tell = Literal["result", "failed", "unable"]
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Node:
    """``[node]``: where the data stand and which languages people read; the first is the documents' language."""

    __pydantic_config__: ClassVar = _STRICT
    data_dir: Path = Path("pacs-ai-node-data")
    languages: Annotated[tuple[Literal["en", "zh-CN"], ...], Len(1)] = ("en", "zh-CN")


@dataclass(frozen=True, slots=True)
class Peer:
    """``[[dicom.peer]]``: one sender that may store.

    `charset` is what it really writes, where it declares something else. ``sends = "study"`` says that its release of an
    association means that the study is complete.
    """

    __pydantic_config__: ClassVar = _STRICT
    ae_title: AETitle
    host: str
    charset: str | None = None
    sends: Literal["study"] | None = None


@dataclass(frozen=True, slots=True)
class Dicom:
    """``[dicom]``: the listener. Port 0 takes any free port."""

    __pydantic_config__: ClassVar = _STRICT
    ae_titles: Annotated[tuple[AETitle, ...], Len(1)] = ("PACSAINODE",)
    host: str = "127.0.0.1"
    port: Port = 11112
    max_associations: Annotated[int, Ge(1)] = 64
    peer: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyTimes:
    """``[study]``: when a study is taken for complete (seconds)."""

    __pydantic_config__: ClassVar = _STRICT
    settle_s: Seconds = 1.0
    quiet_s: Seconds = 60.0
    boot_grace_s: Seconds = 15.0
    max_open_s: Seconds = 3600.0


@dataclass(frozen=True, slots=True)
class Worker:
    """``[worker]``: who computes. `slots` worker processes, each with its models resident."""

    __pydantic_config__: ClassVar = _STRICT
    slots: Annotated[int, Ge(1)] = 1
    device: str = "auto"
    nice: Annotated[int, Ge(0), Le(19)] = 10
    lease_s: Annotated[float, Ge(1.0)] = 30.0
    attempts: Annotated[int, Ge(1)] = 3


@dataclass(frozen=True, slots=True)
class Database:
    """``[database]``: ``sqlite`` is a file in `data_dir`."""

    __pydantic_config__: ClassVar = _STRICT
    url: str = "sqlite"


@dataclass(frozen=True, slots=True)
class Log:
    """``[log]``: for people or for machines."""

    __pydantic_config__: ClassVar = _STRICT
    format: Literal["console", "json"] = "console"


@dataclass(frozen=True, slots=True)
class Destination:
    """``[[destination]]``: one place that results are sent to."""

    __pydantic_config__: ClassVar = _STRICT
    name: Annotated[str, Len(1)]
    host: str
    port: Annotated[int, Ge(1), Le(65535)]
    ae_title: AETitle
    profile: Literal["ohif"] = "ohif"
    check_study: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """``[[rule]]``: which series run which pipelines and where the results go; `when` holds tag tests."""

    __pydantic_config__: ClassVar = _STRICT
    name: Annotated[str, Len(1)]
    when: Mapping[str, Scalar | tuple[Scalar, ...] | Mapping[str, Scalar | tuple[Scalar, ...]]]
    run: tuple[str, ...] = ()
    send_to: tuple[str, ...] = ()
    mode: Literal["live", "shadow"] = "live"
    tell: tuple[Tell, ...] = ("result", "failed", "unable")


@dataclass(frozen=True, slots=True)
class Pipelines:
    """``[pipeline.*]``: one table of options per pipeline."""

    __pydantic_config__: ClassVar = _STRICT
    chest_ct: ChestCtOptions = field(default_factory=ChestCtOptions)


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    __pydantic_config__: ClassVar = _STRICT
    node: Node = field(default_factory=Node)
    dicom: Dicom = field(default_factory=Dicom)
    study: StudyTimes = field(default_factory=StudyTimes)
    worker: Worker = field(default_factory=Worker)
    database: Database = field(default_factory=Database)
    log: Log = field(default_factory=Log)
    pipeline: Pipelines = field(default_factory=Pipelines)
    writer: WriterOptions = field(default_factory=WriterOptions)
    destination: tuple[Destination, ...] = ()
    rule: tuple[Rule, ...] = ()
