"""One digest over the code and data files that decide a result; where there are no weights, they are what does."""

import hashlib
from collections.abc import Iterable
from importlib.resources import files


def digest_of(packages: Iterable[str], single: Iterable[tuple[str, str]] = ()) -> str:
    """Return ``sha256:`` and the digest of files, each after its name and length.

    Parameters
    ----------
    packages : Iterable[str]
        Every code and data file of these, without packages inside them.
    single : Iterable[tuple[str, str]]
        Package and name of more files.
    """
    parts = []
    for package in packages:
        inside = [part for part in files(package).iterdir() if part.name.endswith((".py", ".toml"))]
        parts += sorted(inside, key=lambda part: part.name)
    parts += [files(package).joinpath(name) for package, name in single]
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes()
        total.update(f"{part.name} {len(content)}\n".encode() + content)
    return "sha256:" + total.hexdigest()
