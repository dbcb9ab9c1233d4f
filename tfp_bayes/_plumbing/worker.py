"""Execution of runs inside a worker, which is a process or an actor of Ray."""

import pickle
import traceback
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, NoReturn

from tfp_bayes._plumbing.quiet import start_tensorflow


class Failure(NamedTuple):
    """An exception of a run, in a form that can always be sent to the main process.

    Attributes:
        pickled: The exception, or nothing if it cannot be pickled.
        text: Its type and message.
        traceback: Its traceback.
    """

    pickled: bytes
    text: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an exception."""
        try:
            pickled = pickle.dumps(error)
        except Exception:
            pickled = b""
        text = f"{type(error).__name__}: {error}"
        return cls(pickled, text, "".join(traceback.format_exception(error)))

    def raise_error(self) -> NoReturn:
        """Raise the exception again, or a RuntimeError with its text if it cannot be unpickled."""
        try:
            error = pickle.loads(self.pickled)
        except Exception:
            error = RuntimeError(self.text)
        raise error from RuntimeError(f"in a worker:\n{self.traceback}")


class Worker:
    """Executes a run for one key after another.

    Args:
        threads: Number of threads for TensorFlow. None keeps TensorFlow's default.
    """

    def __init__(self, threads: int | None):
        start_tensorflow()
        if threads is not None:  # possible only before TensorFlow computes anything
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        self._run: Callable[[Any], object] | None = None

    def work(self, load: Callable[[], Callable[[Any], object]], key: Hashable) -> Failure | None:
        """Execute the run for a key, and return the exception that it raised, if any.

        Args:
            load: Function that returns the run. It is called the first time.
            key: The key.
        """
        try:
            if self._run is None:
                self._run = load()
            self._run(key)
        except BaseException as error:  # an exit, too, would look like a killed worker
            return Failure.of(error)
        return None
