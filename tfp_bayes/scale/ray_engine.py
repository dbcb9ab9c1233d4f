"""The engine that makes parts with actors of a Ray cluster. Ray restarts actors that die."""

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
    """Complete parts, and yield the number of each one, see `engines.run_parts`.

    Only part numbers are sent to actors, so the object store stays empty. The cluster is the one
    that the caller has connected to with `ray.init`, else that of RAY_ADDRESS, else this machine.
    """
    ray = _import_ray()
    own = not ray.is_initialized()
    if own:
        # "local", not "auto": a cluster that another process started here may be gone.
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
    # Ray restarts an actor, on another machine if necessary, as long as there are machines.
    actor = ray.remote(_Worker).options(num_cpus=threads, num_gpus=gpus, max_restarts=-1)
    todo, deaths, left = deque(numbers), Counter[int](), len(numbers)
    # Parts go only to actors that are running; others may wait for a machine forever.
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
            raise error  # the actor cannot be started
        else:
            wait_for(worker)
            # We count deaths, because Ray would count each attempt to reach a lost machine.
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
    """Return the error of an actor that died or is unreachable, or None if its task is done."""
    try:
        ray.get(reference)
    except ray.exceptions.RayActorError as error:
        return error
    return None


class _Worker:
    """Actor that makes parts.

    Args:
        job: Job that the parts belong to.
        threads: See `Job.open`.
    """

    def __init__(self, job: Job, threads: int):
        self.job, self.threads = job, threads

    def is_ready(self) -> None:
        """Return as soon as the actor is running."""

    def complete(self, number: int) -> None:
        """Make a part, see `job.complete`."""
        complete(self.job, number, self.threads)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"Expected Ray for engine='ray'. Received: {error}. {EXTRA}") from None
    return ray
