"""Measure the scoring of pools: engines, growth, a killed worker, a finished run.

    python benchmarks/scale.py --rows 200000 --turns 3

Each run is a separate process. Engines use the same cores and take turns, so that a drift of the
machine's speed affects all equally. The rate is measured between the first and the last part. It
leaves out the time in which workers load TensorFlow and the model, which is printed separately.
"""

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NUM_FEATURES, NUM_SAMPLES = 16, 20


def prepare(folder, num_rows):
    """Writes a small classifier and a pool."""
    import tfp_bayes

    tfp_bayes.BayesianMLP((NUM_FEATURES,), 10, seed=0).export(folder / "model")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.normal(size=(num_rows, NUM_FEATURES)).astype("float32"))


def run_once(folder, out, num_rows, rows_per_part, engine, workers):
    """Scores the first rows of the pool; prints the times of parts and the memory used."""
    sys.argv[0] = "tfp-bayes"  # like the command, whose main process does not load TensorFlow
    from tfp_bayes import scale

    start, times = time.perf_counter(), []
    pool = scale.score_pool(
        folder / "model",
        first_rows(folder, num_rows),
        out,
        num_samples=NUM_SAMPLES,
        top=100,
        rows_per_part=rows_per_part,
        keep_mean=False,
        engine=engine,
        workers=workers,
        on_part=lambda done, total: times.append((done, time.perf_counter() - start)),
    )
    who = resource.RUSAGE_SELF if engine == "local" else resource.RUSAGE_CHILDREN
    result = {
        "times": times,
        "seconds": time.perf_counter() - start,
        "megabytes": resource.getrusage(who).ru_maxrss / 1024,
        "top": pool.top(5).rows.tolist(),
        "sums": str(pool.summary.as_json()["sums"]),
    }
    print(json.dumps(result))


def first_rows(folder, num_rows):
    """Returns the first rows of the pool, written to a separate file."""
    from tfp_bayes.scale import NpyRows

    path = folder / f"x-{num_rows}.npy"
    if not path.exists():
        np.save(path, np.load(folder / "x.npy", mmap_mode="r")[:num_rows])
    return NpyRows(path)


def start(folder, name, num_rows, rows_per_part, engine, workers):
    arguments = [folder, folder / name, num_rows, rows_per_part, engine, workers]
    return subprocess.Popen(
        [sys.executable, __file__, "--once", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def finish(process):
    out, errors = process.communicate()
    if process.returncode:
        sys.exit(errors)
    return json.loads(out.splitlines()[-1])


def rate(result, rows_per_part):
    """Returns rows per second from the first part to the last."""
    (done, first), (total, last) = result["times"][1], result["times"][-1]
    return (total - done) * rows_per_part / (last - first)


def compare_engines(folder, arguments, size):
    rates = {engine: [] for engine in arguments.engines}
    starts = {engine: [] for engine in arguments.engines}
    sums = set()
    for turn in range(arguments.turns):
        for engine in arguments.engines:
            workers = 1 if engine == "local" else arguments.workers
            name = f"{engine}-{turn}"
            result = finish(start(folder, name, arguments.rows, size, engine, workers))
            rates[engine].append(rate(result, size))
            starts[engine].append(result["times"][1][1])
            sums.add(result["sums"])
    base = rates[arguments.engines[0]]
    for engine, values in rates.items():
        ratios = [value / one for value, one in zip(values, base)]
        print(
            f"{engine:10}: {statistics.median(values):9.0f} rows/s, "
            f"{statistics.median(ratios):.2f} times {arguments.engines[0]} within a turn "
            f"({min(ratios):.2f} to {max(ratios):.2f}); first part after "
            f"{statistics.median(starts[engine]):.1f} s"
        )
    print(f"summaries bit-equal: {len(sums) == 1}")


def measure_growth(folder, arguments):
    num_rows = 10_000
    while num_rows <= arguments.rows:
        result = finish(start(folder, f"growth-{num_rows}", num_rows, 10_000, "local", 1))
        loaded = result["times"][1][1]
        print(
            f"{num_rows:8} rows: first part of 10,000 {loaded:.1f} s, the others "
            f"{result['times'][-1][1] - loaded:.1f} s, merge "
            f"{result['seconds'] - result['times'][-1][1]:.2f} s, {result['megabytes']:.0f} MB"
        )
        num_rows *= 10


def measure_kill(folder, arguments, size):
    engine, workers = "processes", arguments.workers
    whole = finish(start(folder, "whole", arguments.rows, size, engine, workers))
    process = start(folder, "killed", arguments.rows, size, engine, workers)
    parts = folder / "killed" / "parts"
    while not parts.exists() or len(list(parts.glob("part-*"))) < 2 * workers:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    killed = finish(process)
    part = size / rate(whole, size) * workers
    loaded = whole["times"][1][1] - part
    print(
        f"a worker killed: {killed['seconds'] - whole['seconds']:+.1f} s of "
        f"{whole['seconds']:.1f} s; a part takes {part:.1f} s and a start {loaded:.1f} s; "
        f"bit-equal: {killed['sums'] == whole['sums']}"
    )


def measure_finished(folder):
    times = []
    for _ in range(2):
        times.append(finish(start(folder, "many", 10_000, 10, "local", 1))["seconds"])
    print(f"1,000 parts: {times[0]:.1f} s; repeated call after the end: {times[1]:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["local", "processes", "ray"])
    parser.add_argument("--once", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        folder, out, num_rows, rows_per_part, engine, workers = arguments.once
        run_once(Path(folder), Path(out), int(num_rows), int(rows_per_part), engine, int(workers))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, arguments.rows)
        size = arguments.rows // arguments.parts
        compare_engines(folder, arguments, size)
        measure_growth(folder, arguments)
        measure_kill(folder, arguments, size)
        measure_finished(folder)


if __name__ == "__main__":
    main()
