"""A labeling session, independent of the web page that shows it."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfp_bayes._plumbing.files import number_or_none
from tfp_bayes.active import ActiveLearner
from tfp_bayes.label.classes import check_class_names, predicted_class

_WHO = "page"  # source of the answers, for the journal


class Session:
    """Session in which a person labels proposals of a learner that trains in the background.

    Every answer is in the learner's journal before the call that took it returns. All methods are
    thread-safe.

    Args:
        learner: Learner, before its first proposal or in the middle of a batch.
        class_names: K names of the classes, or the names of 0 and 1 for one sigmoid.
        on_round: Function that is called with the learner after each training.
        picture: Function from an index to the image (H, W, C) uint8 to show, or to None if there is
            none. None shows the inputs of the model.

    Raises:
        ValueError: If the model does not predict one class for each image, or the names do not
            match its classes.
        OSError: If another process labels the same run.
    """

    def __init__(
        self,
        learner: ActiveLearner,
        class_names: Sequence[str],
        on_round: Callable[[ActiveLearner], None] | None = None,
        picture: Callable[[int], np.ndarray | None] | None = None,
    ):
        self.class_names = check_class_names(learner.targets, class_names)
        learner.lock()
        self.learner = learner
        self.on_round = on_round or (lambda learner: None)
        self.picture = picture
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._error: str | None = None

    @property
    def busy(self) -> bool:
        """Whether the model trains or scores, so there are no images to label yet."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start to train, if there are new labels, and to propose a batch, in the background."""
        with self._lock:
            if not self.busy:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Wait until the work in the background is done."""
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            rounds = len(self.learner.history)
            self.learner.propose()  # trains first if there are new labels
            if len(self.learner.history) > rounds:
                self.on_round(self.learner)
            self._error = None
        except Exception as error:
            self._error = str(error) or type(error).__name__  # shown on the page
            if not isinstance(error, ValueError):  # such as an empty pool, which is no failure
                raise

    def state(self) -> dict[str, Any]:
        """Return what the page shows, as plain JSON."""
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
                guess, probability = predicted_class(learner.targets, p)
                label = int(pool.labels[i])
                images.append(
                    {
                        "index": i,
                        "guess": self.class_names[guess],
                        "probability": number_or_none(probability),
                        "score": number_or_none(pool.scores[i]),
                        "open": i in pending,
                        "label": self.class_names[label] if label >= 0 else None,
                    }
                )
        return state

    def image(self, index: int) -> np.ndarray | None:
        """Return the image (H, W, C) for an index, or None if there is none."""
        if self.picture is not None:
            return self.picture(index)
        known = 0 <= index < len(self.learner.x)
        return self.learner.rows(np.array([index]))[0] if known else None

    def label(self, index: int, name: str) -> None:
        """Store one label.

        Raises:
            ValueError: If the name is not a class, or the index is not proposed.
            OSError: If the answer cannot be saved. It does not count then.
        """
        check_name(name, self.class_names)
        with self._lock:
            self._check_idle()
            label = self.class_names.index(name)
            self.learner.tell(np.array([index]), np.array([label]), who=_WHO)

    def skip(self, index: int) -> None:
        """Skip an image that cannot be labeled."""
        with self._lock:
            self._check_idle()
            self.learner.skip(np.array([index]), who=_WHO)

    def undo(self, index: int) -> None:
        """Undo the label or the skip of an image of this batch."""
        with self._lock:
            self._check_idle()
            self.learner.take_back(np.array([index]), who=_WHO)

    def _check_idle(self) -> None:
        if self.busy:
            raise ValueError(
                "Expected an answer while images are shown. Received: one while the model trains. "
                "Hint: wait until the next images appear."
            )


def check_name(name: str, class_names: list[str]) -> None:
    """Raise ValueError if a name is not a class."""
    if name not in class_names:
        raise ValueError(
            f"Expected one of {class_names} for `label`. Received: label={name!r}. "
            "Hint: reload the page."
        )
