"""Look through the zip archives in which torch keeps weights and programs, before torch reads them.

torch has a reader of zip files of its own, which finds names whatever their case and directories where the file's end says they
are. So that nothing stands in its view that was not looked at, what was read here is written anew and that alone is loaded.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator

from pipeline.models.errors import refused
from pipeline.models.limits import limits

_PARTS = re.compile(
    r"(data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|(data|constants)/[0-9]+|code/[\w./]+\.py)",
    re.ASCII,
)
_LEFT_OUT = re.compile(r"(.+\.debug_pkl|extra/.+)", re.ASCII)
"""Places in the source, for messages; what the maker keeps for himself."""

_OPERATORS = frozenset({b"aten", b"prim", b"prims", b"quantized", b"torchvision"})
_WORD = re.compile(rb"[A-Za-z_]\w*")
_OPERATOR = re.compile(rb"\bops\s*\.\s*([A-Za-z_]\w*)")
_FORBIDDEN = frozenset({b"from_file", b"save", b"classes", b"distributed"})
"""Operators that touch files, other libraries' classes, and other machines; by any name that leads to them."""
_ATTRIBUTE = re.compile(rb"getattr\s*\(([^)]*)")
_PLAIN_ATTRIBUTE = re.compile(rb"""[\w\s.,(]*,\s*("[\w.]*"|'[\w.]*')\s*""")


def is_archive(data: bytes) -> bool:
    """Whether a file is one of torch's archives; weights of old versions are not."""
    return zipfile.is_zipfile(io.BytesIO(data))


def archive(data: bytes, name: str) -> io.BytesIO:
    """Return an archive with what was found in `data` and nothing else, unpacked.

    Raises
    ------
    ModelRefused
        If it unpacks to far more than it holds, has what such archives do not have, or programs that reach beyond tensors.
    """
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as written:
            for info in _entries(given, len(data), name):
                part = given.read(info)
                if info.filename.endswith(".py"):
                    _program(part, name)
                written.writestr(zipfile.ZipInfo(info.filename), part)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise refused(name, f"cannot be unpacked ({type(error).__name__})") from error
    out.seek(0)
    return out


def _entries(given: zipfile.ZipFile, size: int, name: str) -> Iterator[zipfile.ZipInfo]:
    bounds, infos = limits()["weights"], given.infolist()
    if sum(info.file_size for info in infos) > bounds["unpacked_ratio"] * size + bounds["unpacked_spare"]:
        raise refused(name, "unpacks to far more than it holds")
    top = infos[0].filename.partition("/")[0] if infos else ""
    seen = set()
    for info in infos:
        first, _, part = info.orig_filename.partition("/")
        if info.orig_filename.casefold() in seen:
            raise refused(name, "has two files of one name")
        seen.add(info.orig_filename.casefold())
        if _LEFT_OUT.fullmatch(part):
            continue
        if first != top or not _PARTS.fullmatch(part):
            raise refused(name, "has a file that archives of torch do not have")
        yield info


def _program(code: bytes, name: str) -> None:
    """Refuse a program of TorchScript that names what reaches beyond tensors. It narrows what a program can do, and proves nothing."""
    if found := _FORBIDDEN & set(_WORD.findall(code)):
        raise refused(name, f"its program uses {min(found).decode()}, which reaches beyond tensors")
    if foreign := set(_OPERATOR.findall(code)) - _OPERATORS:
        raise refused(name, f"its program uses operators of another library ({min(foreign).decode()})")
    if not all(_PLAIN_ATTRIBUTE.fullmatch(inside) for inside in _ATTRIBUTE.findall(code)):
        raise refused(name, "its program puts names together")
