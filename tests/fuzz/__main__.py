"""Fuzz by coverage: ``python -m tests.fuzz SECONDS [TARGET ...]``, all targets in turn by default. Needs atheris.

What is found stands in ``fuzz/<target>/``: the corpus, and a file ``crash-...``, ``timeout-...`` or ``oom-...`` for each
input that did what it must not. Such an input becomes a test, and is mended at its root.
"""

import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path("fuzz")
MEMORY_MB, SLOWEST_S, LONGEST = 1024, 10, 65536


def one_target(name: str, seconds: int) -> None:
    """Fuzz one target in this process; ends it."""
    import atheris

    with atheris.instrument_imports(include=["dicom_io", "config", "pydicom", "pynetdicom", "zipfile", "tomllib"]):
        from tests.fuzz.targets import TARGETS

    warnings.simplefilter("ignore")
    target = TARGETS[name]
    corpus = ROOT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SLOWEST_S}", f"-max_len={LONGEST}",
        f"-artifact_prefix={corpus}/", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz targets in turn, each in a process of its own; return how many failed."""
    seconds, names = int(sys.argv[1]), sys.argv[2:]
    if names[:1] == ["--one"]:
        one_target(names[1], seconds)
    # not at the top: what is to be instrumented must not be imported before
    from tests.fuzz.material import MEMORY, scratch_of
    from tests.fuzz.targets import TARGETS

    names = names or list(TARGETS)
    failed = []
    for name in names:
        begun = time.monotonic()
        command = [sys.executable, "-m", "tests.fuzz", str(max(1, seconds // len(names))), "--one", name]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as child:
            told = child.communicate()[1]
        for left in MEMORY.glob(scratch_of(child.pid) + "*"):  # libFuzzer ends its process without a farewell
            shutil.rmtree(left, ignore_errors=True)
        lines = [line for line in told.splitlines() if not line.startswith("INFO: Instrumenting")]
        runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
        memory = next((line.split()[-1] for line in lines if "peak_rss_mb" in line), "?")
        print(
            f"{name:14} {runs:>9} inputs in {time.monotonic() - begun:5.0f} s, {memory} MB, exit code {child.returncode}",
            flush=True,
        )
        if child.returncode:
            failed.append(name)
            print("\n".join(lines[-60:]), flush=True)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
