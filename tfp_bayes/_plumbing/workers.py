"""Runs in several processes, none of which outlives the one that started them."""

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
    """Completes runs and yields the key of each, as it ends.

    Args:
        run: A function of a module if there are several workers.
        arguments: Of each run; several workers get them pickled.
        workers: Processes that run at a time; 1 is this one.

    Raises:
        ChildProcessError: If a worker was killed.
    """
    if workers == 1:
        for key, each in arguments.items():
            run(*each)
            yield key
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    # Workers end when the writing end is closed, which the operating system does if need be.
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
                f"Hint: {workers} of them may need more memory than there is, so take fewer; "
                "what is complete stays, and started again the rest continues."
            ) from None


def _start(reading: Connection) -> None:
    """Prepares a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=_end_with_parent, args=(reading,), daemon=True).start()
    start_tensorflow()


def _end_with_parent(reading: Connection) -> None:
    reading.poll(None)  # nothing is ever sent: returns when the other end is closed
    os._exit(1)  # at once: a run can be killed anywhere and continued
