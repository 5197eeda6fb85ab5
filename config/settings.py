"""Frozen settings: one dataclass per table of the TOML file, every default in one place.

`config.load` fills them; nothing here reads a file. Secrets have no place in them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, Len

from dicom_io.reason import LANGUAGES
from dicom_io.rights import Right
from dicom_io.tls import ClientTls, ServerTls
from pipeline.options import ChestCtOptions, CtQualityOptions, CxrQualityOptions
from sr_writer.options import WriterOptions
from sr_writer.profiles import Compression, Encoding, Item, Profile, ProfileName, of_site

_STRICT: dict[str, Any] = {"extra": "forbid"}

if TYPE_CHECKING:
    Language = str
else:
    Language = Literal[LANGUAGES]
AETitle = Annotated[str, Len(1, 16)]
Seconds = Annotated[float, Ge(0.0)]
Port = Annotated[int, Ge(0), Le(65535)]
Tell = Literal["result", "failed", "unable", "alarm"]
Scalar = str | int | float | bool
Tests = Mapping[str, Scalar | tuple[Scalar, ...] | Mapping[str, Scalar | tuple[Scalar, ...]]]


@dataclass(frozen=True, slots=True)
class Node:
    """``[node]``: where the data stand and which languages people read; the first is the documents' language.

    Without a `name` a node is called like its host. Nodes that share a folder and a database have different names; one
    that is not heard for `silent_s` is taken for dead.
    """

    __pydantic_config__: ClassVar = _STRICT
    data_dir: Path = Path("pacs-ai-node-data")
    languages: Annotated[tuple[Language, ...], Len(1)] = LANGUAGES
    name: Annotated[str, Len(0, 32)] = ""
    silent_s: Annotated[float, Ge(5.0)] = 30.0


@dataclass(frozen=True, slots=True)
class Peer:
    """``[[dicom.peer]]``: one sender; it is known by AE title, address and, where one is named, certificate.

    `host` is an address, a network (``10.20.30.0/24``) or a name. `certificate` is the one that it must show, by its SHA-256
    (``sha256:...``), or one of a trusted authority for a name or address (``name:ct1.hospital.example``). `rights` are what it may do; two entries for one sender add up. `tls` is for associations
    that we open to it.

    `charset` is what it really writes, where it declares something else. ``sends = "study"`` says that its release of an
    association means that the study is complete. With a `query_port` it is asked by C-FIND how many images each series
    has, under `query_ae_title` if it answers under another title. At `commit_port` it is told the results of storage
    commitment that it asked for.
    """

    __pydantic_config__: ClassVar = _STRICT
    ae_title: AETitle
    host: str
    charset: str | None = None
    sends: Literal["study"] | None = None
    query_port: Annotated[int, Ge(1), Le(65535)] | None = None
    query_ae_title: AETitle | None = None
    commit_port: Annotated[int, Ge(1), Le(65535)] | None = None
    rights: tuple[Right, ...] = ("store", "commit")
    certificate: str = ""
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True)
class Dicom:
    """``[dicom]``: the listener. Port 0 takes any free port; with `tls` it takes nothing else.

    `receivers` processes share the port, and all limits of associations hold over them together; a peer is an address and
    a calling AE title. A request beyond a limit waits a second for its turn before it is rejected for now. An object
    larger than `max_object_mb` (0: any size) is answered 0xA700. A connection that asks for no association for
    `request_s`, and an association that is silent for `idle_s`, is closed.
    """

    __pydantic_config__: ClassVar = _STRICT
    ae_titles: Annotated[tuple[AETitle, ...], Len(1)] = ("PACSAINODE",)
    host: str = "127.0.0.1"
    port: Port = 11112
    receivers: Annotated[int, Ge(1), Le(16)] = 2
    max_associations: Annotated[int, Ge(1), Le(1024)] = 64
    max_associations_per_peer: Annotated[int, Ge(1)] = 32
    associations_per_second: Annotated[float, Ge(0.0)] = 100.0
    max_object_mb: Annotated[int, Ge(0)] = 8192
    request_s: Annotated[float, Ge(0.1)] = 10.0
    idle_s: Annotated[float, Ge(1.0)] = 30.0
    tls: ServerTls | None = None
    peer: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class WebClient:
    """``[[web.client]]``: one sender that may store by STOW-RS.

    It shows the token that stands in `token_file` or in the environment variable `token_env`, or the certificate whose
    SHA-256 is `certificate` (``sha256:...``); everything that is named must fit. `host` names networks that it may come from
    (``10.20.0.0/16``); empty: any. `name` is its calling title: rules and ``[[dicom.peer]]`` know it by that.
    """

    __pydantic_config__: ClassVar = _STRICT
    name: AETitle
    token_file: Path | None = None
    token_env: str = ""
    certificate: str = ""
    host: tuple[str, ...] = ()
    rights: tuple[Literal["store"], ...] = ("store",)


@dataclass(frozen=True, slots=True)
class Web:
    """``[web]``: STOW-RS. Without a `port` nothing listens; 0 takes any free one; with `tls` it takes nothing else.

    A request may take `request_s` in all, and may be silent for `idle_s`. `plain` allows HTTP without TLS beyond
    loopback: only behind a proxy that ends TLS on this machine or in its pod.
    """

    __pydantic_config__: ClassVar = _STRICT
    host: str = "127.0.0.1"
    port: Port | None = None
    base: str = "/dicom-web"
    plain: bool = False
    max_requests: Annotated[int, Ge(1)] = 8
    max_object_mb: Annotated[int, Ge(1)] = 4096
    max_request_mb: Annotated[int, Ge(1)] = 16_384
    max_objects: Annotated[int, Ge(1)] = 20_000
    request_s: Annotated[float, Ge(1.0)] = 3600.0
    idle_s: Annotated[float, Ge(1.0)] = 30.0
    tls: ServerTls | None = None
    client: tuple[WebClient, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyTimes:
    """``[study]``: when a study is taken for complete (seconds).

    With ``pace = "learn"`` the quiet time of a sender that has been seen often enough follows its own longest pauses,
    between `quiet_min_s` and `quiet_max_s`; one that has not, and every sender with ``"fixed"``, gets `quiet_s`.
    """

    __pydantic_config__: ClassVar = _STRICT
    settle_s: Seconds = 1.0
    quiet_s: Seconds = 60.0
    pace: Literal["learn", "fixed"] = "learn"
    quiet_min_s: Seconds = 5.0
    quiet_max_s: Seconds = 900.0
    boot_grace_s: Seconds = 15.0
    max_open_s: Seconds = 3600.0


@dataclass(frozen=True, slots=True)
class Worker:
    """``[worker]``: who computes. `slots` worker processes, each with its models resident.

    `quality_slots` processes besides take only jobs about single images and series, and are started where a rule asks for
    such; 0: the others take these first.
    """

    __pydantic_config__: ClassVar = _STRICT
    slots: Annotated[int, Ge(1)] = 1
    quality_slots: Annotated[int, Ge(0)] = 1
    device: str = "auto"
    nice: Annotated[int, Ge(0), Le(19)] = 10
    lease_s: Annotated[float, Ge(1.0)] = 30.0
    attempts: Annotated[int, Ge(1)] = 3


@dataclass(frozen=True, slots=True)
class Database:
    """``[database]``: ``sqlite`` is a file in `data_dir`; ``postgresql+psycopg://...`` is a server that nodes share.

    A password comes from the environment, never from a file of settings.
    """

    __pydantic_config__: ClassVar = _STRICT
    url: str = field(default="sqlite", repr=False)


@dataclass(frozen=True, slots=True)
class Log:
    """``[log]``: for people or for machines."""

    __pydantic_config__: ClassVar = _STRICT
    format: Literal["console", "json"] = "console"


@dataclass(frozen=True, slots=True)
class SegOptions:
    """``[destination.seg]``: what is different about the segmentations of the destination's profile; None: nothing."""

    __pydantic_config__: ClassVar = _STRICT
    encoding: Encoding | None = None
    compression: Compression | None = None
    omit_empty_frames: bool | None = None
    radiographs: bool | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """``[[destination]]``: one place that results are sent to.

    ``kind = "dicom"`` has `host`, `port` and `ae_title`; ``kind = "stow"`` (STOW-RS) has `url`, shows the token that
    stands in `token_file` or in the environment variable `token_env`, and sends `headers` along. ``kind = "webhook"`` has
    the same and gets no objects, but one JSON document per job by POST (``node/schemas/webhook-1.schema.json``).

    `profile` says which objects it gets (``sr_writer/profiles.toml``); `seg` changes the encoding of its segmentations,
    and `objects` is the table of ``profile = "custom"``.

    `proof` is how arrival is confirmed: by asking for the objects (C-FIND, QIDO-RS), by storage commitment, or not at
    all. What could not be sent for `max_age_h` is given up, visibly; 0: never. With `reject_superseded` a rejection note
    follows a later result, and names what this place has accepted of the earlier ones (IHE IOCM).
    """

    __pydantic_config__: ClassVar = _STRICT
    name: Annotated[str, Len(1)]
    host: str = ""
    port: Port = 0
    ae_title: Annotated[str, Len(0, 16)] = ""
    kind: Literal["dicom", "stow", "webhook"] = "dicom"
    url: str = ""
    token_file: Path | None = None
    token_env: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    profile: ProfileName = "ohif"
    objects: tuple[Item, ...] = ()
    seg: SegOptions | None = None
    check_study: bool = True
    proof: Literal["find", "commitment", "none"] = "find"
    max_age_h: Annotated[float, Ge(0.0)] = 168.0
    reject_superseded: bool = False
    tls: ClientTls | None = None

    @property
    def wants(self) -> Profile:
        """Which objects it gets.

        Raises
        ------
        ValueError
            If `profile`, `objects` and `seg` do not fit together; the text begins with the key.
        """
        seg = {} if self.seg is None else {k: v for k, v in asdict(self.seg).items() if v is not None}
        return of_site(self.profile, self.objects, seg)


@dataclass(frozen=True, slots=True)
class RIS:
    """``[[ris]]``: a place that modality performed procedure steps are passed on to, unchanged."""

    __pydantic_config__: ClassVar = _STRICT
    name: Annotated[str, Len(1)]
    host: str
    port: Annotated[int, Ge(1), Le(65535)]
    ae_title: AETitle
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True)
class Commitment:
    """``[commitment]``: storage commitment for senders, off unless `archive` names a destination.

    A scanner deletes its images on success, and this node is no archive: only what that archive has itself committed is
    passed on.
    """

    __pydantic_config__: ClassVar = _STRICT
    archive: str = ""


@dataclass(frozen=True, slots=True)
class Storage:
    """``[storage]``: when no more is accepted (0xA700), and how long what is finished stays.

    Receiving stops below `min_free_mb`, or with `max_waiting` jobs waiting (0: any number), and goes on a quarter
    beyond. Images and results of finished studies go after `images_days` and `results_days`, copies of refused objects
    after `quarantine_days` (0: never); images and copies sooner, oldest first, while less than `keep_free_mb` are free
    (0: not).
    """

    __pydantic_config__: ClassVar = _STRICT
    min_free_mb: Annotated[int, Ge(0)] = 256
    max_waiting: Annotated[int, Ge(0)] = 10_000
    keep_free_mb: Annotated[int, Ge(0)] = 0
    images_days: Annotated[float, Ge(0.0)] = 30.0
    results_days: Annotated[float, Ge(0.0)] = 365.0
    quarantine_days: Annotated[float, Ge(0.0)] = 90.0


@dataclass(frozen=True, slots=True)
class Rule:
    """``[[rule]]``: which series run which pipelines and where the results go; `when` holds tag tests.

    `tell` says what the destinations hear of: ``result``, ``failed``, ``unable`` (of its kind, but cannot be judged), or
    ``alarm``, a result that grades the images C or D.

    A study that matches waits for at least one series for every table of tests in `require`.
    """

    __pydantic_config__: ClassVar = _STRICT
    name: Annotated[str, Len(1)]
    when: Tests
    run: tuple[str, ...] = ()
    send_to: tuple[str, ...] = ()
    mode: Literal["live", "shadow"] = "live"
    tell: tuple[Tell, ...] = ("result", "failed", "unable")
    require: tuple[Tests, ...] = ()
    priority: Literal["stat", "high", "routine"] = "routine"


@dataclass(frozen=True, slots=True)
class Pipelines:
    """``[pipeline.*]``: one table of options per pipeline."""

    __pydantic_config__: ClassVar = _STRICT
    chest_ct: ChestCtOptions = field(default_factory=ChestCtOptions)
    cxr_quality: CxrQualityOptions = field(default_factory=CxrQualityOptions)
    ct_quality: CtQualityOptions = field(default_factory=CtQualityOptions)


@dataclass(frozen=True, slots=True)
class Models:
    """``[models]``: where the models stand that the site has installed; empty: ``models`` in `data_dir`."""

    __pydantic_config__: ClassVar = _STRICT
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    __pydantic_config__: ClassVar = _STRICT
    node: Node = field(default_factory=Node)
    dicom: Dicom = field(default_factory=Dicom)
    web: Web = field(default_factory=Web)
    study: StudyTimes = field(default_factory=StudyTimes)
    storage: Storage = field(default_factory=Storage)
    commitment: Commitment = field(default_factory=Commitment)
    worker: Worker = field(default_factory=Worker)
    database: Database = field(default_factory=Database)
    log: Log = field(default_factory=Log)
    pipeline: Pipelines = field(default_factory=Pipelines)
    models: Models = field(default_factory=Models)
    writer: WriterOptions = field(default_factory=WriterOptions)
    destination: tuple[Destination, ...] = ()
    ris: tuple[RIS, ...] = ()
    rule: tuple[Rule, ...] = ()

    @property
    def models_folder(self) -> Path:
        """Where the models stand that the site has installed."""
        return self.models.folder or self.node.data_dir / "models"
