"""A worker process with the quick pipeline: ``python -m tests.node.probe_worker CONFIGURATION BOOT``."""

import multiprocessing
import os
import sys
from pathlib import Path

from config.load import load
from node import log
from node.worker import run_worker
from pipeline import registry
from tests.node.probe_node import _load

if __name__ == "__main__":
    log.configure("console")
    registry.load = _load
    ours, theirs = multiprocessing.Pipe()
    run_worker(load(Path(sys.argv[1]), os.environ), theirs, float(sys.argv[2]))
