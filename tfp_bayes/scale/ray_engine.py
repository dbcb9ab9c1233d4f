"""Parts made by the actors of a Ray cluster, which Ray starts again when they die."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from tfp_bayes._plumbing.files import write_json
from tfp_bayes.scale.job import TRIES, Job, complete
from tfp_bayes.scale.parts import EXTRA


def run_on_ray(
    job: Job, numbers: Sequence[int], workers: int | None, gpus_per_worker: float
) -> Iterator[int]:
    """Completes parts and yields the number of each; see `engines.run_parts`.

    A part number travels, and nothing else, so that the object store stays empty. The cluster is
    that of `ray.init`, if the caller was there first, or of RAY_ADDRESS, or this machine.
    """
    ray = _import_ray()
    own = not ray.is_initialized()
    if own:
        # Not the cluster that some process has once started here, which may be gone.
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        yield from _run(ray, job, numbers, workers, gpus_per_worker)
    finally:
        if own:
            ray.shutdown()


def _run(
    ray: Any, job: Job, numbers: Sequence[int], workers: int | None, gpus: float
) -> Iterator[int]:
    cores = ray.cluster_resources().get("CPU", 1)
    if workers is None:
        workers = int(ray.cluster_resources().get("GPU", 0) // gpus if gpus else cores) or 1
    workers = min(workers, len(numbers))
    threads = max(int(cores // workers), 1)
    # Ray starts an actor again, elsewhere if need be, for as long as there are machines.
    actor = ray.remote(_Worker).options(num_cpus=threads, num_gpus=gpus, max_restarts=-1)
    todo, deaths, left = deque(numbers), Counter[int](), len(numbers)
    # Parts go to actors that are there: others may wait for machines for ever.
    idle: list[Any] = []
    pending: dict[Any, tuple[Any, int | None]] = {}

    def wait_for(worker: Any) -> None:
        pending[worker.is_ready.options(max_task_retries=-1).remote()] = worker, None

    for _ in range(workers):
        wait_for(actor.remote(job, threads))
    while left:
        while todo and idle:
            worker, part = idle.pop(), todo.popleft()
            pending[worker.complete.remote(part)] = worker, part
        (reference,), _ = ray.wait(list(pending), num_returns=1)
        worker, number = pending.pop(reference)
        error = _death(ray, reference)
        if error is None:
            idle.append(worker)
        elif number is None:
            raise error  # it cannot be started
        else:
            wait_for(worker)
            # Counted here: Ray would count each attempt to reach a machine that is gone.
            deaths[number] += 1
            if deaths[number] < TRIES:
                todo.append(number)
                continue
            reason = f"its worker died {TRIES} times: {error}"
            write_json(job.failure(number), {"part": number, "error": reason})
        if number is not None:
            left -= 1
            yield number


def _death(ray: Any, reference: Any) -> Exception | None:
    """Returns why an actor died or cannot be reached, None if it has done its task."""
    try:
        ray.get(reference)
    except ray.exceptions.RayActorError as error:
        return error
    return None


class _Worker:
    """An actor.

    Args:
        job: What it makes parts of.
        threads: See `Job.open`.
    """

    def __init__(self, job: Job, threads: int):
        self.job, self.threads = job, threads

    def is_ready(self) -> None:
        """Returns once the actor runs."""

    def complete(self, number: int) -> None:
        """Makes a part; see `job.complete`."""
        complete(self.job, number, self.threads)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"Expected Ray for engine='ray'. Received: {error}. {EXTRA}") from None
    return ray
