"""Engines that make the parts of a job: this process, several processes, or a Ray cluster."""

import os
from collections.abc import Iterator, Sequence

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.workers import run_all
from tfp_bayes.scale.job import TRIES, Job, complete
from tfp_bayes.scale.names import ENGINES
from tfp_bayes.scale.ray_engine import run_on_ray


def check_engine(engine: str, workers: int | None, gpus_per_worker: float) -> None:
    """Raise ValueError if the engine is unknown, or does not support the other arguments."""
    if engine not in ENGINES:
        raise ValueError(
            f"Expected one of {ENGINES} for `engine`. Received: engine={engine!r}. "
            "Hint: 'processes' uses the cores of this machine, and 'ray' those of a cluster."
        )
    if workers is not None:
        check_integers(1, workers=workers)
    if engine == "local" and workers not in (None, 1):
        raise ValueError(
            f"Expected one worker for engine='local'. Received: workers={workers}. "
            "Hint: use engine='processes'."
        )
    if not gpus_per_worker >= 0 or (gpus_per_worker and engine != "ray"):
        raise ValueError(
            "Expected 0 for `gpus_per_worker`, or the GPUs per worker with engine='ray'. "
            f"Received: gpus_per_worker={gpus_per_worker}, engine={engine!r}. "
            "Hint: engine='local' uses the GPU that TensorFlow finds."
        )


def run_parts(
    job: Job, numbers: Sequence[int], engine: str, workers: int | None, gpus_per_worker: float
) -> Iterator[int]:
    """Complete parts, and yield the number of each one as it ends.

    Args:
        job: Job that the parts belong to.
        numbers: Numbers of the parts to make.
        engine: One of `ENGINES`.
        workers: Number of processes or actors. None starts one per core, or with
            `gpus_per_worker` as many as the GPUs allow.
        gpus_per_worker: Number of GPUs per actor, with Ray.

    Raises:
        ChildProcessError: If workers are killed repeatedly, and no part is completed in between.
    """
    if engine == "ray":
        yield from run_on_ray(job, numbers, workers, gpus_per_worker)
    elif engine == "processes":
        yield from _run_processes(job, numbers, workers)
    else:
        for number in numbers:
            complete(job, number)
            yield number


def _run_processes(job: Job, numbers: Sequence[int], workers: int | None) -> Iterator[int]:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = min(workers or cores, len(numbers))
    threads = None if workers == 1 else max(cores // workers, 1)
    left = dict.fromkeys(numbers)
    deaths = 0
    while left:
        try:
            for number in run_all(complete, {n: (job, n, threads) for n in left}, workers):
                deaths = 0
                del left[number]
                yield number
        except ChildProcessError:  # new workers make the unfinished parts again
            deaths += 1
            if deaths == TRIES:
                raise
