"""Random SIGKILLs of a node under load, and what was lost by them.

    python -m benchmarks.chaos [--studies 200] [--kills 300] [--seed N] [--resume DIR]

Senders push tiny phantoms (one association; one per image; halves, shuffled) while children of the node, its supervisor or
all of them at once are killed at random instants, and now and then the PACS. Afterwards every acknowledged image must be in
the spool and in the index, every study must have one outcome, and its artifacts must be in the PACS once. An interrupted
run goes on with ``--resume DIR``. Ends with the summary as one JSON document; exit code 0 only without a fault.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import Plan, Storm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between two kills")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="folder of the run: made if new, else gone on with")
    asked = parser.parse_args()
    folder = asked.resume or Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"in {folder}; go on with --resume {folder}", flush=True)
    plan = Plan(asked.studies, asked.kills, asked.seed, pause_s=asked.pause)
    summary = Storm(folder.resolve(), plan, lambda line: print(line, flush=True)).run()
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(json.dumps(summary, indent=1))
    sys.exit(1 if summary["faults"] else 0)


if __name__ == "__main__":
    main()
