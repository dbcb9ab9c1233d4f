"""Workers that are actors of a Ray cluster. Ray restarts actors that die."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any

from tfp_bayes._plumbing.worker import Failure, Worker

EXTRA = 'Hint: pip install "tfp_bayes[scale]".'


@contextlib.contextmanager
def ray_workers(
    run: Callable[[Any], object],
    size: int | None,
    most: int,
    gpus_per_worker: float,
    share_cores: bool,
) -> Iterator[RayWorkers]:
    """Return workers for a run. They end with the context.

    The cluster is the one that the caller has connected to with `ray.init`, else that of
    RAY_ADDRESS, else this machine.

    Args:
        run: Function of a key. It is stored once in the cluster.
        size: Number of workers. None starts one per core or, with `gpus_per_worker`, as many as
            the GPUs allow.
        most: Largest number of workers.
        gpus_per_worker: Number of GPUs per worker.
        share_cores: See `workers.run_all`.
    """
    ray = _import_ray()
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            # "local", not "auto": a cluster that another process started here may be gone.
            address = os.environ.get("RAY_ADDRESS", "local")
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="warning")
            stack.callback(ray.shutdown)
        workers = RayWorkers(ray, run, size, most, gpus_per_worker, share_cores)
        stack.callback(workers.close)
        yield workers


class RayWorkers:
    """See `workers.Workers`. A worker is identified by the handle of its actor."""

    def __init__(
        self,
        ray: Any,
        run: Callable[[Any], object],
        size: int | None,
        most: int,
        gpus_per_worker: float,
        share_cores: bool,
    ):
        self._ray = ray
        resources = ray.cluster_resources()
        cores, gpus = resources.get("CPU", 1), resources.get("GPU", 0)
        if size is None:
            size = int(gpus // gpus_per_worker if gpus_per_worker else cores) or 1
        self.size = min(size, most)
        cores_per_worker = max(int(cores // self.size), 1)
        # Ray restarts an actor, on another machine if necessary, as long as there are machines.
        self._actor = ray.remote(_Actor).options(
            num_cpus=cores_per_worker, num_gpus=gpus_per_worker, max_restarts=-1
        )
        self._threads = cores_per_worker if share_cores else None
        self._run = ray.put(run)
        self._actors: list[Any] = []
        self._pending: dict[Any, Any] = {}

    def start(self) -> Any:
        """See `workers.Workers`."""
        worker = self._actor.remote(self._threads)
        self._actors.append(worker)
        return self.restart(worker)

    def restart(self, worker: Any) -> Any:
        """See `workers.Workers`. This waits for Ray, which restarts the same actor."""
        self._pending[worker.is_ready.options(max_task_retries=-1).remote()] = worker
        return worker

    def send(self, worker: Any, key: Hashable) -> None:
        """See `workers.Workers`."""
        # Without retries of Ray, which would count each attempt to reach a lost machine. Ray would
        # replace a reference by the run; in a list, it stays a reference.
        self._pending[worker.execute.remote([self._run], key)] = worker

    def wait(self, busy: Collection[Any]) -> tuple[Any, Failure | str | None]:
        """See `workers.Workers`."""
        (reference,), _ = self._ray.wait(list(self._pending), num_returns=1)
        worker = self._pending.pop(reference)
        try:
            return worker, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # it died, or cannot be reached
            return worker, " ".join(str(error).split())

    def close(self) -> None:
        """Kill all workers. A run can be killed at any point and continued."""
        for worker in self._actors:
            self._ray.kill(worker)


class _Actor(Worker):
    """Worker whose run is in Ray's object store."""

    def is_ready(self) -> None:
        """Return as soon as the actor is running."""

    def execute(self, run: list[Any], key: Hashable) -> Failure | None:
        """See `Worker.work`. The list has the reference to the run."""
        return self.work(lambda: _import_ray().get(run[0]), key)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"Expected Ray for engine='ray'. Received: {error}. {EXTRA}") from None
    return ray
