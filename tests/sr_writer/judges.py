"""Other people's tools, and what they may say: ``judges.toml`` holds every message that is no fault of an object."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

JARS = Path("/usr/share/java")
_LIMITS = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]
"""Java 17 bounds what a stylesheet may ask; PixelMed's asks more."""
_QUICK = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
_PATHS = re.compile(r"\(\w{4},\w{4}\)|\[\d+\]")
_PLACE = re.compile(r"\d+(\.\d+)*: ")


@dataclass(frozen=True, slots=True)
class Message:
    """What a judge says about one file, or about several beside each other.

    Parameters
    ----------
    judge, text : str
        Who says what; numbers that tell items of one kind apart are left out.
    paths : tuple of Path
        About which files.
    """

    judge: str
    text: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Allowed:
    """A message that is no fault of the object that it is about.

    Parameters
    ----------
    judge : str
        Whose.
    pattern : str
        What the whole text looks like.
    why : str
        Why it is no fault, and where that stands.
    about : Mapping[str, str]
        Keyword to the value that the object has; empty: any.
    """

    judge: str
    pattern: str
    why: str
    about: tuple[tuple[str, str], ...] = ()

    def covers(self, message: Message, ds: Dataset) -> bool:
        """Whether it is this message about such an object."""
        return (
            message.judge == self.judge
            and all(str(ds.get(keyword)) == value for keyword, value in self.about)
            and re.fullmatch(self.pattern, message.text, re.DOTALL) is not None
        )


def baseline() -> tuple[Allowed, ...]:
    """Return the messages that are no fault."""
    rows = tomllib.loads(Path(__file__).with_name("judges.toml").read_text(encoding="utf-8"))["message"]
    return tuple(Allowed(r["judge"], r["pattern"], r["why"], tuple(r.get("about", {}).items())) for r in rows)


def tool(name: str) -> str:
    """Return the program `name`: of the system, or of the environment of these tests."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a judge and wait for it."""
    program = [tool(str(command[0])), *map(str, command[1:])]
    # one byte, one character: dicom3tools prints values as they stand in the file
    return subprocess.run(program, check=False, capture_output=True, text=True, encoding="latin-1", timeout=600)


def dciodvfy(paths: Iterable[Path]) -> Iterator[Message]:
    """Yield what dciodvfy says about modules, attributes and values."""
    paths = list(paths)
    with ThreadPoolExecutor(2) as pool:
        for path, judged in zip(paths, pool.map(lambda p: run("dciodvfy", "-new", p), paths), strict=True):
            said = list(_messages(judged.stderr))
            assert judged.returncode == any(m.startswith("Error") for m in said), path
            yield from (Message("dciodvfy", _PATHS.sub("", m), (path,)) for m in said)


def dcentvfy(sources: Sequence[Path], paths: Sequence[Path]) -> Iterator[Message]:
    """Yield what dcentvfy says about objects that should be of one patient and study."""
    judged = run("dcentvfy", *sources, *paths)
    for text in _messages(judged.stderr):
        ours = tuple(path for path in paths if f"<{path}>" in text)
        assert ours, text
        yield Message("dcentvfy", re.sub(r" (within|for) file <.*?>( versus <.*?>)?", "", text), ours)


def dsrdump(paths: Sequence[Path]) -> Iterator[Message]:
    """Yield what dsrdump complains of in documents."""
    for path in paths:
        judged = run("dsrdump", path)
        lines = [line for line in judged.stderr.split("\n") if line.startswith(("E:", "F:", "W:"))]
        assert judged.returncode == any(line[0] != "W" for line in lines), (path, judged.stderr)
        yield from (Message("dsrdump", line, (path,)) for line in lines)


def pixelmed(paths: Sequence[Path]) -> Iterator[Message]:
    """Yield what PixelMed's validator says about the templates of documents."""
    jar = JARS / "pixelmed.jar"
    if not jar.exists():
        pytest.skip("PixelMed is not installed (Debian: libpixelmed-java)")
    judged = run("java", *_QUICK, *_LIMITS, "-cp", jar, Path(__file__).with_name("PixelMed.java"), *paths)
    assert judged.returncode == 0, judged.stderr
    parts = re.split(r"^# (.*)\n", judged.stdout, flags=re.MULTILINE)
    assert parts[1::2] == list(map(str, paths))
    for path, text in zip(paths, parts[2::2], strict=True):
        assert "IOD validation complete" in text, path
        for line in text.split("\n"):  # a character of several bytes may hold one that ends a line elsewhere
            if line.startswith(("Error", "Warning")):
                yield Message("pixelmed", _PLACE.sub("", line), (path,))


def _messages(text: str) -> Iterator[str]:
    """Yield the errors and warnings of a tool of dicom3tools; values in them may have several lines."""
    for part in re.split(r"^(?=Error - |Warning - )", text, flags=re.MULTILINE):
        if part.startswith(("Error", "Warning")):
            yield part.strip()
