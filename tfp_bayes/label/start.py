"""A start without labels: a person labels the first images, then a learner takes over."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.files import write_json
from tfp_bayes.label.session import Session, check_name


class StartSession:
    """Session that shows given images until each has an answer, and then continues as a `Session`.

    Use it if no labels exist yet, because a learner cannot start without any. Every answer is in a
    file before the call that took it returns, and an interrupted start continues from that file.
    All methods are thread-safe.

    Args:
        indices: (n,) indices of the images to label first, such as those of
            `initial.kmeans_unlabelled`.
        class_names: K names of the classes.
        path: JSON file for the answers: from index to class number, or to null for skipped images.
        make_session: Function from indices and labels to the session of a learner that starts with
            them.
        picture: Function from an index to its image (H, W, C) uint8, or to None if there is none.
        answers: Contents of that file, if the start was interrupted.
    """

    def __init__(
        self,
        indices: np.ndarray,
        class_names: Sequence[str],
        path: Path,
        make_session: Callable[[np.ndarray, np.ndarray], Session],
        picture: Callable[[int], np.ndarray | None],
        answers: Mapping[int, int | None] | None = None,
    ):
        self.indices = [int(i) for i in indices]
        self.class_names = list(class_names)
        self.path = path
        self.picture = picture
        self.answers = dict(answers or {})
        self.session: Session | None = None
        self._make_session = make_session
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._error: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every image of the start has an answer, and at least one a label."""
        answered = all(i in self.answers for i in self.indices)
        return answered and any(label is not None for label in self.answers.values())

    @property
    def busy(self) -> bool:
        """Whether the learner is being constructed, trains or scores."""
        if self._thread is not None and self._thread.is_alive():
            return True
        return self.session is not None and self.session.busy

    def start(self) -> None:
        """Construct the learner once the answers are complete, or let it continue."""
        with self._lock:
            if self.busy:
                return
            if self.session is not None:
                self.session.start()
            elif self.is_complete:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            else:
                self._error = (
                    "Expected a label for at least one image. Received: none. "
                    "Hint: undo a skip and label that image."
                    if all(i in self.answers for i in self.indices)
                    else None
                )

    def wait(self) -> None:
        """Wait until the work in the background is done."""
        if self._thread is not None:
            self._thread.join()
        if self.session is not None:
            self.session.wait()

    def _work(self) -> None:
        labelled = [i for i in self.indices if self.answers[i] is not None]
        labels = [self.answers[i] for i in labelled]
        try:
            session = self._make_session(np.array(labelled), np.array(labels))
            session.start()
            session.wait()  # so `busy` stays true until there are images to show
            self.session = session
            self._error = None
        except Exception as error:
            self._error = str(error) or type(error).__name__  # shown on the page
            raise

    def state(self) -> dict[str, Any]:
        """Return what the page shows, as plain JSON."""
        if self.session is not None:
            return self.session.state()
        busy = self.busy
        return {
            "busy": busy,
            "error": self._error,
            "class_names": self.class_names,
            "acquisition": None,
            "history": [],
            "images": [] if busy else [self._shown(i) for i in self.indices],
        }

    def _shown(self, index: int) -> dict[str, Any]:
        label = self.answers.get(index)
        return {
            "index": index,
            "guess": None,
            "probability": None,
            "score": None,
            "open": index not in self.answers,
            "label": None if label is None else self.class_names[label],
        }

    def image(self, index: int) -> np.ndarray | None:
        """Return the image (H, W, C) for an index, or None if there is none."""
        return self.picture(index)

    def label(self, index: int, name: str) -> None:
        """Store one label. See `Session.label`."""
        check_name(name, self.class_names)
        if self.session is not None:
            self.session.label(index, name)
        else:
            self._answer(index, self.class_names.index(name))

    def skip(self, index: int) -> None:
        """Skip an image that cannot be labeled."""
        if self.session is not None:
            self.session.skip(index)
        else:
            self._answer(index, None)

    def undo(self, index: int) -> None:
        """Undo the label or the skip of an image that is shown."""
        if self.session is not None:
            self.session.undo(index)
            return
        with self._lock:
            self._check(index, index in self.answers)
            self._save({i: label for i, label in self.answers.items() if i != index})

    def _answer(self, index: int, label: int | None) -> None:
        with self._lock:
            self._check(index, index not in self.answers)
            self._save({**self.answers, index: label})

    def _check(self, index: int, fits: bool) -> None:
        if self.busy or index not in self.indices or not fits:
            raise ValueError(
                "Expected an image that is shown and has no answer, or an undo of an answer, for "
                f"`index`. Received: index={index}. Hint: reload the page."
            )

    def _save(self, answers: dict[int, int | None]) -> None:
        write_json(self.path, {str(i): label for i, label in answers.items()})
        self.answers = answers  # after writing: only answers on disk count
        self._error = None
