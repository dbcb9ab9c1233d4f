"""Workers that are actors of a Ray cluster. Ray restarts actors that die."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
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
        run: Function of a key. It is stored once in the cluster, as are custom objects of Keras.
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
        self._shared = [ray.put(_custom_objects(ray)), ray.put(run)]
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
        # replace references by what they refer to; in a list, they stay references.
        self._pending[worker.execute.remote(self._shared, key)] = worker

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

    def execute(self, shared: list[Any], key: Hashable) -> Failure | None:
        """See `Worker.work`. The list has references to custom objects and to the run."""
        return self.work(lambda: _load(*shared), key)


def _load(custom_objects: Any, run: Any) -> Callable[[Any], object]:
    ray = _import_ray()
    _register(ray.get(custom_objects))  # before the run is unpickled, which may hold a model
    return ray.get(run)


def _custom_objects(ray: Any) -> dict[str, bytes]:
    """Pickle what is registered with Keras. Unlike a process, an actor imports no main script."""
    found = {}
    keras = sys.modules.get("keras")
    for name, value in keras.saving.get_custom_objects().items() if keras else ():
        if str(value.__module__).partition(".")[0] not in ("keras", "tfp_bayes"):
            with contextlib.suppress(Exception):  # where it is needed, Keras names it
                found[name] = ray.cloudpickle.dumps(value)
    return found


def _register(custom_objects: dict[str, bytes]) -> None:
    if not custom_objects:
        return
    import keras

    for name, pickled in custom_objects.items():
        with contextlib.suppress(Exception):  # where it is needed, Keras names it
            value = pickle.loads(pickled)  # may import a module that registers it
            package, _, own_name = name.rpartition(">")
            if name not in keras.saving.get_custom_objects():
                keras.saving.register_keras_serializable(package, own_name)(value)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"Expected Ray for engine='ray'. Received: {error}. {EXTRA}") from None
    return ray
