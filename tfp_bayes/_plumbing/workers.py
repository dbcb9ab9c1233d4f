"""Runs in parallel: in processes of this machine, or in actors of a Ray cluster.

Each worker gets the run once, with all that its executions share, and then only keys. A worker that
dies is replaced alone, and its key is given to another: a kill costs one execution and one start.
"""

import functools
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from tfp_bayes._plumbing.process_workers import process_workers
from tfp_bayes._plumbing.ray_workers import ray_workers
from tfp_bayes._plumbing.worker import Failure

ENGINES = ("local", "processes", "ray")
TRIES = 3  # attempts before a key counts as failed

Key = TypeVar("Key", bound=Hashable)


def check_engine(engine: str, workers: int | None, gpus_per_worker: float) -> None:
    """Raise ValueError if the engine is unknown, or does not support the other arguments."""
    if engine not in ENGINES:
        raise ValueError(
            f"Expected one of {ENGINES} for `engine`. Received: engine={engine!r}. "
            "Hint: 'processes' uses the cores of this machine, and 'ray' those of a cluster."
        )
    if workers is not None:
        from tfp_bayes._plumbing.checks import check_integers  # needs NumPy, unlike `--help`

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


def check_is_main() -> None:
    """Raise RuntimeError if a worker starts workers while it imports the main script."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "Expected a script that its workers can import. Received: a script that starts a run "
            'on import. Hint: put the call below `if __name__ == "__main__":`.'
        )


def run_all(
    run: Callable[[Key], object],
    keys: Sequence[Key],
    on_end: Callable[[Key], None],
    *,
    engine: str = "processes",
    workers: int | None = 1,
    gpus_per_worker: float = 0,
    share_cores: bool = False,
    on_death: Callable[[Key, str], None] | None = None,
) -> None:
    """Execute a run for each key, and call a function as each execution ends.

    Executions must leave their results in files, and an execution that was killed must be
    repeatable.

    Args:
        run: Function of a key. For other engines than "local" it is pickled, with all that it
            holds, such as a model and data.
        keys: Small, different keys, which are pickled too. None is not a key.
        on_end: Function that this process calls with the key of each execution that has ended.
        engine: One of `ENGINES`. "processes" with one worker runs in this process, like "local".
        workers: Number of processes or actors. None starts one per core or, with
            `gpus_per_worker`, as many as the GPUs allow.
        gpus_per_worker: Number of GPUs per actor, with Ray.
        share_cores: Whether workers divide the cores of a machine among them. Otherwise
            TensorFlow has as many threads in each worker as it would have alone. The number of
            threads can change rounding in training.
        on_death: Function that is called with a key and the reason if three workers died with it.
            None raises an error.

    Raises:
        Exception: An exception of the run, or RuntimeError with its text if it cannot be pickled.
        ChildProcessError: If three workers died with the same key, or three in a row at their
            start.
    """
    if not keys:
        return
    most = len(keys)
    opened: AbstractContextManager[Workers]
    if engine == "ray":
        opened = ray_workers(run, workers, most, gpus_per_worker, share_cores)
    else:
        workers = 1 if engine == "local" else min(workers or _num_cores(), most)
        if workers == 1:
            for key in keys:
                run(key)
                on_end(key)
            return
        threads = max(_num_cores() // workers, 1) if share_cores else None
        opened = process_workers(run, workers, threads)
    with opened as started:
        _run_in(started, keys, on_end, on_death or functools.partial(_raise_death, started.size))


class Workers(Protocol):
    """Workers that a loop can start and send keys to. Each has at most one key at a time."""

    size: int

    def start(self) -> Any:
        """Start a worker and return it. `wait` reports that it is ready, or died."""

    def restart(self, worker: Any) -> Any:
        """Replace a worker that died, and return the new one. See `start`."""

    def send(self, worker: Any, key: Hashable) -> None:
        """Let a worker execute the run for a key. `wait` reports the end."""

    def wait(self, busy: Collection[Any]) -> tuple[Any, Failure | str | None]:
        """Wait until a worker reports something, and return it with its report.

        Args:
            busy: The workers that have a key or are starting.

        Returns:
            The worker, and None (it is ready, or has ended an execution), an exception of the run,
            or the reason why the worker died.
        """


def _run_in(
    workers: Workers,
    keys: Sequence[Key],
    on_end: Callable[[Key], None],
    on_death: Callable[[Key, str], None],
) -> None:
    todo, left, deaths = deque(keys), len(keys), Counter[Key | None]()
    # Keys go only to workers that have started; others may wait for a machine forever.
    busy: dict[Any, Key | None] = {workers.start(): None for _ in range(workers.size)}
    idle: list[Any] = []
    while left:
        while todo and idle:
            worker = idle.pop()
            busy[worker] = todo.popleft()
            workers.send(worker, busy[worker])
        worker, report = workers.wait(busy)
        key = busy.pop(worker)
        if isinstance(report, Failure):
            report.raise_error()
        if report is None:
            idle.append(worker)
            deaths[None] = 0
        else:
            deaths[key] += 1
            if not idle:
                busy[workers.restart(worker)] = None
        if key is None:
            if deaths[None] == TRIES:
                raise _cannot_start(report)
        elif report is not None and deaths[key] < TRIES:
            todo.append(key)
        else:
            if report is not None:
                on_death(key, report)
            left -= 1
            on_end(key)


def _raise_death(workers: int, key: Hashable, reason: str) -> None:
    raise ChildProcessError(
        f"Expected workers that complete their runs. Received: {TRIES} that died in the same run, "
        f"{key} ({reason}). Hint: {workers} workers may need more memory than there is; use fewer. "
        "Completed runs are saved; start again to continue the rest."
    )


def _cannot_start(reason: str | None) -> ChildProcessError:
    return ChildProcessError(
        f"Expected workers that start. Received: {TRIES} that died at their start ({reason}). "
        "Hint: read their messages above, if any; or they may need more memory than there is."
    )


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
