"""Audit what is installed and what is committed: pins, licences, secrets, known vulnerabilities.

Run in the project's environment: ``make audit``. Exit code 1: something was found. The first three need no network. The
last asks a vulnerability service; where none answers, that is said in so many words and is no success.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / ".secrets.baseline"
SERVICES = ("pypi", "osv")


def normal(name: str) -> str:
    """Return a distribution's name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, importlib.metadata.Distribution]:
    """Return every installed distribution."""
    return {normal(d.metadata["Name"]): d for d in importlib.metadata.distributions()}


def unpinned(versions: Mapping[str, str], constraints: str, free: Iterable[str]) -> Iterator[str]:
    """Tell what is installed in a version that is not the one in `constraints`; `free` (patterns) need no pin."""
    lines = (line.split("#")[0].strip() for line in constraints.splitlines())
    pins = {normal(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    for name, version in sorted(versions.items()):
        if any(fnmatch(name, pattern) for pattern in free):
            continue
        if pins.get(name) != version.partition("+")[0]:
            yield f"{name} {version} is installed; constraints.txt says {pins.get(name, 'nothing')}"


def licence_of(metadata: Any, table: Mapping[str, Any]) -> str:  # noqa: ANN401 - an e-mail message
    """Return the licence as SPDX has it: as declared, else by its name or classifier, else empty."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    said = [(metadata.get("License") or "").strip(), *classifiers]
    return next((table["names"].get(s, s) for s in said if table["names"].get(s, s) in table["allowed"]), said[0][:60])


def forbidden(licences: Mapping[str, str], table: Mapping[str, Any]) -> Iterator[str]:
    """Tell whose licence is not allowed."""
    for name, licence in sorted(licences.items()):
        if any(fnmatch(name, pattern) for pattern in table["known"]):
            continue
        choices = [part.split(" AND ") for part in licence.split(" OR ")]  # what is nested is for a person to read
        if not any(all(one in table["allowed"] for one in choice) for choice in choices):
            yield f"{name}: licence {licence or 'unknown'}; see .ci/licences.toml"


def secrets(files: Sequence[Path], baseline: Mapping[str, Any], root: Path = ROOT) -> Iterator[str]:
    """Tell what looks like a password, key or token and does not stand in the baseline."""
    from detect_secrets import SecretsCollection  # noqa: PLC0415 - slow to import
    from detect_secrets.settings import transient_settings  # noqa: PLC0415

    known = {(s["type"], s["hashed_secret"]) for found in baseline["results"].values() for s in found}
    settings = {key: baseline[key] for key in ("plugins_used", "filters_used")}
    with transient_settings(settings):
        found = SecretsCollection(root=str(root))
        for path in files:
            found.scan_file(str(path.relative_to(root)))
        for name, secret in found:
            if (secret.type, secret.secret_hash) not in known:
                yield f"{name}:{secret.line_number}: {secret.type}; if it is none: detect-secrets scan --no-verify > {BASELINE.name}"


def committed() -> list[Path]:
    """Return the files of the repository as they are, those not yet added too."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")  # noqa: S603 - fixed
    return [ROOT / name for name in names if name and (ROOT / name).is_file() and ROOT / name != BASELINE]


def ask(service: str) -> str | None:
    """Ask one vulnerability service about everything that is installed; None: it does not answer."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--timeout", "10"]
    command += ["--progress-spinner", "off", "--vulnerability-service", service]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)  # noqa: S603 - fixed
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.stdout.lstrip().startswith("{") else None


def vulnerabilities(ask: Callable[[str], str | None] = ask) -> tuple[bool, list[str]]:
    """Return whether any service knew anything of what is installed, and what is vulnerable.

    pip-audit ends well when a service knows none of the packages: that is no answer.
    """
    for service in SERVICES:
        answer = ask(service)
        rows = [] if answer is None else json.loads(answer)["dependencies"]
        looked_up = [row for row in rows if "vulns" in row]
        if looked_up:
            print(f"    {service} knows {len(looked_up)} of {len(rows)} distributions")
            return True, [
                f"{row['name']} {row['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'no version yet'}"
                for row in looked_up
                for v in row["vulns"]
            ]
    return False, []


def main() -> int:
    """Run every part; return the exit code."""
    table = tomllib.loads((ROOT / ".ci" / "licences.toml").read_text(encoding="utf-8"))
    there = installed()
    parts: dict[str, Iterable[str]] = {
        "pins": unpinned(
            {name: d.version for name, d in there.items()},
            (ROOT / "constraints.txt").read_text(encoding="utf-8"),
            table["unpinned"],
        ),
        "licences": forbidden({name: licence_of(d.metadata, table) for name, d in there.items()}, table),
        "secrets": secrets(committed(), json.loads(BASELINE.read_text(encoding="utf-8"))),
    }
    bad = 0
    for name, found in parts.items():
        told = list(found)
        bad += len(told)
        print(f"{'FAIL' if told else 'ok  '} {name}", *told, sep="\n    ")
    ran, told = vulnerabilities()
    bad += len(told)
    if ran:
        print(f"{'FAIL' if told else 'ok  '} vulnerabilities", *told, sep="\n    ")
    else:
        print(f"NOT RUN vulnerabilities: no service answers ({', '.join(SERVICES)}); run `make audit` where one does")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
