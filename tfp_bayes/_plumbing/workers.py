"""Parallel runs in worker processes, which end with the process that started them."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import TypeVar

from tfp_bayes._plumbing.quiet import start_tensorflow

Key = TypeVar("Key", bound=Hashable)


def run_all(
    run: Callable[..., None], arguments: Mapping[Key, tuple], workers: int
) -> Iterator[Key]:
    """Execute runs, and yield the key of each one as it ends.

    Args:
        run: Function to call. With several workers, it must be defined at the top level of a
            module.
        arguments: Arguments of each run, by key. They are pickled for several workers.
        workers: Number of processes that run at a time. 1 runs in the current process.

    Raises:
        ChildProcessError: If a worker was killed.
    """
    if workers == 1:
        for key, each in arguments.items():
            run(*each)
            yield key
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    # Workers end when the writing end is closed. If this process is killed, the operating system
    # closes it.
    reading, writing = context.Pipe(duplex=False)
    with (
        concurrent.futures.ProcessPoolExecutor(workers, context, _start, (reading,)) as pool,
        writing,
    ):
        futures = {pool.submit(run, *each): key for key, each in arguments.items()}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                yield futures[future]
        except concurrent.futures.process.BrokenProcessPool:
            raise ChildProcessError(
                "Expected workers that complete their runs. Received: one that was killed. "
                f"Hint: {workers} workers may need more memory than there is; use fewer. "
                "Completed runs are saved; start again to continue the rest."
            ) from None


def _start(reading: Connection) -> None:
    """Prepare a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent ends its workers
    threading.Thread(target=_end_with_parent, args=(reading,), daemon=True).start()
    start_tensorflow()


def _end_with_parent(reading: Connection) -> None:
    reading.poll(None)  # nothing is ever sent, so this returns when the other end is closed
    os._exit(1)  # no cleanup is necessary: a run can be killed at any point and continued
