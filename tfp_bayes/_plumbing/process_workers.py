"""Workers that are processes of this machine, and end with the process that started them."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from tfp_bayes._plumbing.worker import Failure, Worker

_CHECK = 1.0  # seconds between two checks that the workers are alive


@contextlib.contextmanager
def process_workers(
    run: Callable[[Any], object], size: int, threads: int | None
) -> Iterator["ProcessWorkers"]:
    """Return workers for a run, which are killed when the context ends.

    Args:
        run: Function of a key. It is pickled.
        size: Number of workers to start.
        threads: See `Worker`.
    """
    workers = ProcessWorkers(pickle.dumps(run), size, threads)
    try:
        yield workers
    finally:
        workers.close()


class ProcessWorkers:
    """See `workers.Workers`. A worker is identified by the connection to it."""

    def __init__(self, run: bytes, size: int, threads: int | None):
        self.size = size
        self._run, self._threads = run, threads
        self._processes: dict[Connection, SpawnProcess] = {}
        self._without_run: set[Connection] = set()

    def start(self) -> Connection:
        """See `workers.Workers`."""
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._threads))
        process.start()
        theirs.close()  # the operating system closes the other copy when the worker ends
        self._processes[ours] = process
        self._without_run.add(ours)
        return ours

    def restart(self, worker: Connection) -> Connection:
        """See `workers.Workers`."""
        return self.start()

    def send(self, worker: Connection, key: Hashable) -> None:
        """See `workers.Workers`. The worker has started, so it receives a large run at once."""
        with contextlib.suppress(OSError):  # it has died, which `wait` will find
            worker.send(key)
            if worker in self._without_run:
                self._without_run.remove(worker)
                worker.send_bytes(self._run)

    def wait(self, busy: Collection[Connection]) -> tuple[Connection, Failure | str | None]:
        """See `workers.Workers`."""
        while True:
            for worker in cast(list[Connection], wait([*busy], _CHECK)):
                try:
                    return worker, worker.recv()
                except (EOFError, OSError):
                    return worker, self._remove(worker)
            # Processes that a worker forked hold copies of its connection, which stays open then.
            for worker in busy:
                if not self._processes[worker].is_alive() and not worker.poll():
                    return worker, self._remove(worker)

    def _remove(self, worker: Connection) -> str:
        """Forget a worker that has died, and return why."""
        process = self._processes.pop(worker)
        process.join(_CHECK)
        process.kill()
        process.join()
        worker.close()
        code = process.exitcode or 0
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """Kill all workers. A run can be killed at any point and continued."""
        for process in self._processes.values():
            process.kill()
        for worker in list(self._processes):
            self._remove(worker)


def _work(connection: Connection, threads: int | None) -> None:
    """Do the work of a worker process: report that it has started, then answer each key."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = Worker(threads)
    connection.send(None)
    while True:
        key = connection.recv()
        connection.send(worker.work(connection.recv, key))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # returns even if the parent was killed
    os._exit(1)  # no cleanup is necessary, see `close`
