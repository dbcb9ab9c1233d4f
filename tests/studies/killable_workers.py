"""Runs that never end, in two workers: python killable_workers.py FOLDER."""

import os
import sys
import time
import types
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):  # the latter in a worker
    # The test needs no TensorFlow, which importing the package would start in each process.
    package = types.ModuleType("tfp_bayes")
    package.__path__ = [str(Path(__file__).parents[2] / "tfp_bayes")]
    sys.modules["tfp_bayes"] = package

from tfp_bayes._plumbing import workers

if __name__ == "__mp_main__":
    workers.start_tensorflow = lambda: None


def run(method, seed, folder):
    folder.with_suffix(".tmp").write_text(str(os.getpid()))
    folder.with_suffix(".tmp").rename(folder)
    time.sleep(600)


if __name__ == "__main__":
    arguments = {seed: ("m", seed, Path(sys.argv[1], f"run-{seed}")) for seed in range(4)}
    try:
        list(workers.run_all(run, arguments, 2))
    except ChildProcessError as error:
        print(error)
        sys.exit(1)
