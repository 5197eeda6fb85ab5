"""The small PACS as a process of its own, so that it too can be killed: ``python -m tests.chaos.small_pacs FOLDER PORT``."""

import sys
import threading
from pathlib import Path

from node.loopback_pacs import LoopbackPacs

if __name__ == "__main__":
    with LoopbackPacs(Path(sys.argv[1]), "PACS", int(sys.argv[2])) as pacs:
        sys.stdout.write(f"{pacs.port}\n")
        sys.stdout.flush()
        threading.Event().wait()
