"""A job in parts that needs no TensorFlow: python squares.py FOLDER ENGINE WORKERS HOLD."""

import atexit
import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from tfp_bayes.scale.job import Job
from tfp_bayes.scale.parts import to_parquet
from tfp_bayes.scale.pool import merge
from tfp_bayes.scale.run import run_job
from tfp_bayes.scale.summary import Summary

NUM_ROWS, ROWS_PER_PART = 115, 10


@dataclasses.dataclass(frozen=True)
class Squares(Job):
    """Job whose scores have ties. A worker that begins a part writes a "mark" file.

    Attributes:
        hold: Whether parts from the fourth on wait until a file "go" exists.
    """

    hold: bool

    def identity(self):
        return {"task": "squares", "num_rows": self.num_rows}

    def open(self):
        return self.make

    def make(self, start, stop):
        (self.folder / f"mark-{start}-{os.getpid()}").touch()
        if (self.folder / "deadly").exists() and start == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        bad = self.folder / "bad"
        if bad.exists() and start <= int(bad.read_text()) < stop:
            raise ValueError(f"row {bad.read_text()} is bad")
        while self.hold and start >= 3 * ROWS_PER_PART and not (self.folder / "go").exists():
            time.sleep(0.01)
        rows = np.arange(start, stop)
        columns = {"row": rows, "score": rows**2 % 11 / 7}
        columns |= {f"{kind}_entropy": rows**kind_of / 3 for kind, kind_of in KINDS.items()}
        columns["mutual_information"] = columns["score"]
        record = {
            "job": self.key,
            "first_row": start,
            "num_rows": stop - start,
            "cpu": "",
            "checksum": str(start),
            "summary": Summary.of(columns).as_json(),
        }
        return to_parquet(columns, record)


KINDS = {"predictive": 0.5, "expected": 0.3}


def start_cluster(folder):
    """Start two Ray nodes, and kill the second one once both are at work."""
    import ray
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    second = cluster.add_node(num_cpus=1, **memory)
    ray.init(address=cluster.address, log_to_driver=False)

    def kill():
        while len(list(folder.glob("mark-*"))) < 5:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)
        (folder / "go").touch()

    threading.Thread(target=kill, daemon=True).start()
    atexit.register(cluster.shutdown)


def main(folder, engine, workers, hold):
    if engine == "cluster":
        start_cluster(Path(folder))
        engine = "ray"
    job = Squares(Path(folder), NUM_ROWS, ROWS_PER_PART, hold == "True")
    run_job(job, lambda: merge(job), engine=engine, workers=int(workers), gpus_per_worker=0)


if __name__ == "__main__":
    from squares import main  # workers unpickle the classes from a module of this name

    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
