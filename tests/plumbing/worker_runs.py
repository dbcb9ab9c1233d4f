"""Runs in two workers that need no TensorFlow: python worker_runs.py FOLDER RUN NUM_KEYS."""

import functools
import os
import sys
import time
import types
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):  # the latter in a worker
    # Importing the package would start TensorFlow in each process.
    package = types.ModuleType("tfp_bayes")
    package.__path__ = [str(Path(__file__).parents[2] / "tfp_bayes")]
    sys.modules["tfp_bayes"] = package

from tfp_bayes._plumbing import process_workers, worker, workers

if __name__ == "__mp_main__":
    worker.start_tensorflow = lambda: None
    if sys.argv[2] == "cannot_start":
        os._exit(3)


class UnpicklableError(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def wait_forever(folder, key):
    """Write the process id to a file, and go on until a file "go" exists."""
    path = folder / f"run-{key}"
    path.with_suffix(".tmp").write_text(str(os.getpid()))
    path.with_suffix(".tmp").rename(path)
    while not (folder / "go").exists():
        time.sleep(0.01)


def fail(folder, key):
    raise FileNotFoundError(2, "no such pool", "pool.npy")


def fail_strangely(folder, key):
    raise UnpicklableError("a", "b")


def leave(folder, key):
    sys.exit(7)


def cannot_start(folder, key):
    """Never called."""


def fork_and_die(folder, key):
    """Die while a forked process still has the connection to the main process."""
    if os.fork() == 0:
        wait_forever(folder, key)
        os._exit(0)
    os._exit(9)


class Broken:
    """A run that no worker can load."""

    def __reduce__(self):
        return eval, ("1 / 0",)


if __name__ == "__main__":
    process_workers._CHECK = 0.1
    folder, name, num_keys = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    run = Broken() if name == "Broken" else functools.partial(globals()[name], folder)
    try:
        workers.run_all(run, range(num_keys), print, workers=2)
    except Exception as error:
        print(type(error).__name__, error, sep=": ")
        sys.exit(1)
