"""A start without any label: a person labels the first images, then a learner goes on."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.files import write_json
from tfp_bayes.label.session import Session, check_name, number_or_none


class StartSession:
    """Shows chosen images until each has an answer; then what a `Session` shows of a learner.

    A learner cannot begin without labels. Every answer is in a file before the call returns, and a
    start that was interrupted continues with it. Safe to call from several threads.

    Args:
        indices: (n,) the images to label first, such as those of `initial.kmeans_unlabelled`.
        class_names: K names.
        path: JSON file of the answers, index to class number, or None for what was skipped.
        make_session: From indices and labels to the session of the learner that they make.
        picture: From an index to its image (H, W, C) uint8, None if there is none.
        answers: What that file held when the start was interrupted.
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
        """Whether every image of the start has an answer, and one at least a label."""
        answered = all(i in self.answers for i in self.indices)
        return answered and any(label is not None for label in self.answers.values())

    @property
    def busy(self) -> bool:
        """Whether the model is made, trains or scores."""
        if self._thread is not None and self._thread.is_alive():
            return True
        return self.session is not None and self.session.busy

    def start(self) -> None:
        """Makes the learner of the answers if they are complete, and lets it go on."""
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
        """Waits until that is done."""
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
            session.wait()  # busy until there is something to show
            self.session = session
            self._error = None
        except Exception as error:
            self._error = str(error) or type(error).__name__  # the page says so
            raise

    def state(self) -> dict[str, Any]:
        """Returns what a page shows, plain JSON."""
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
            "score": number_or_none(np.nan),
            "open": index not in self.answers,
            "label": None if label is None else self.class_names[label],
        }

    def image(self, index: int) -> np.ndarray | None:
        """Returns the image (H, W, C) of an index, None if there is none."""
        return self.picture(index)

    def label(self, index: int, name: str) -> None:
        """Takes one label, see `Session.label`."""
        check_name(name, self.class_names)
        if self.session is not None:
            self.session.label(index, name)
        else:
            self._answer(index, self.class_names.index(name))

    def skip(self, index: int) -> None:
        """Gives up an image that cannot be labelled."""
        if self.session is not None:
            self.session.skip(index)
        else:
            self._answer(index, None)

    def undo(self, index: int) -> None:
        """Takes back the label, or the skip, of an image that is shown."""
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
                "Expected an answer to an image that is shown and has none, or undo of one. "
                f"Received: index={index}. Hint: reload the page."
            )

    def _save(self, answers: dict[int, int | None]) -> None:
        write_json(self.path, {str(i): label for i, label in answers.items()})
        self.answers = answers  # only what is on the disk counts
        self._error = None
