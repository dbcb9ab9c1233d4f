"""A labeling session, independent of the web page that shows it."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfp_bayes.active import ActiveLearner

_WHO = "page"  # in the journal


class Session:
    """One learner and one person: proposals out, labels in, training in the background.

    Every answer is in the learner's journal before the call returns. Safe to call from several
    threads.

    Args:
        learner: Not yet asked or in the middle of a batch.
        class_names: K names.
        on_round: Called with the learner after each training.
        picture: From an index to the image (H, W, C) uint8 that people see, None if there is
            none; None shows what the model sees.

    Raises:
        OSError: If another process labels the same run.
    """

    def __init__(
        self,
        learner: ActiveLearner,
        class_names: Sequence[str],
        on_round: Callable[[ActiveLearner], None] | None = None,
        picture: Callable[[int], np.ndarray | None] | None = None,
    ):
        learner.lock()
        self.learner = learner
        self.class_names = list(class_names)
        self.on_round = on_round or (lambda learner: None)
        self.picture = picture
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._error: str | None = None

    @property
    def busy(self) -> bool:
        """Whether the model trains or scores, so that there is nothing to label yet."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Trains on what is known if need be and proposes the next batch, in the background."""
        with self._lock:
            if not self.busy:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Waits until that is done."""
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            rounds = len(self.learner.history)
            self.learner.propose()  # trains first, on what was told
            if len(self.learner.history) > rounds:
                self.on_round(self.learner)
            self._error = None
        except Exception as error:
            self._error = str(error) or type(error).__name__  # the page says so
            if not isinstance(error, ValueError):  # an empty pool is no failure
                raise

    def state(self) -> dict[str, Any]:
        """Returns what a page shows, plain JSON."""
        learner = self.learner
        history = [
            {"acquired": row.num_acquired, "accuracy": number_or_none(row.test_accuracy)}
            for row in list(learner.history)
        ]
        images: list[dict[str, Any]] = []
        state = {
            "busy": self.busy,
            "error": self._error,
            "class_names": self.class_names,
            "acquisition": learner.query.name,
            "history": history,
            "images": images,
        }
        if self.busy:
            return state
        with self._lock:
            pool = learner.pool
            pending = set(pool.pending.tolist())
            for i, p in zip(pool.proposed.tolist(), pool.proposed_probabilities):
                guess = int(p.argmax())
                label = int(pool.labels[i])
                images.append(
                    {
                        "index": i,
                        "guess": self.class_names[guess],
                        "probability": number_or_none(p[guess]),
                        "score": number_or_none(pool.scores[i]),
                        "open": i in pending,
                        "label": self.class_names[label] if label >= 0 else None,
                    }
                )
        return state

    def image(self, index: int) -> np.ndarray | None:
        """Returns the image (H, W, C) of an index, None if there is none."""
        if self.picture is not None:
            return self.picture(index)
        known = 0 <= index < len(self.learner.x)
        return self.learner.rows(np.array([index]))[0] if known else None

    def label(self, index: int, name: str) -> None:
        """Takes one label.

        Raises:
            ValueError: If the name is not a class, or the index not proposed.
            OSError: If the answer cannot be saved; it does not count then.
        """
        check_name(name, self.class_names)
        with self._lock:
            self._check_idle()
            label = self.class_names.index(name)
            self.learner.tell(np.array([index]), np.array([label]), who=_WHO)

    def skip(self, index: int) -> None:
        """Gives up an image that cannot be labelled."""
        with self._lock:
            self._check_idle()
            self.learner.skip(np.array([index]), who=_WHO)

    def undo(self, index: int) -> None:
        """Takes back the label, or the skip, of an image of this batch."""
        with self._lock:
            self._check_idle()
            self.learner.take_back(np.array([index]), who=_WHO)

    def _check_idle(self) -> None:
        if self.busy:
            raise ValueError(
                "Expected a label while images are shown. Received: one while the model trains. "
                "Hint: wait until the next images appear."
            )


def check_name(name: str, class_names: list[str]) -> None:
    """Raises ValueError if a name is no class."""
    if name not in class_names:
        raise ValueError(
            f"Expected one of {class_names} for `label`. Received: label={name!r}. "
            "Hint: reload the page."
        )


def number_or_none(value: float) -> float | None:
    """Returns a number for JSON, which has no word for NaN."""
    return None if np.isnan(value) else float(value)
