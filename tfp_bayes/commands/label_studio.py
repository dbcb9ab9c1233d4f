"""`tfp-bayes label-studio`: a saved model orders the tasks of Label Studio by doubt."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tfp_bayes._plumbing.quiet import start_tensorflow
from tfp_bayes.commands.image_model import (
    add_doubt,
    add_image_model,
    check_model_file,
    class_names_of,
    image_shape,
    num_classes_of,
    predict_classes,
)
from tfp_bayes.commands.pixels import check_divisor, say_scale, scaled

if TYPE_CHECKING:
    import numpy as np

    from tfp_bayes.label.backend import ServedModel
    from tfp_bayes.prediction import Prediction

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_label_studio(commands, at_least) -> None:
    """Adds the command to a parser's subcommands.

    Args:
        commands: The subcommands.
        at_least: From a least and a most integer to what reads one between.
    """
    parser = commands.add_parser(
        "label-studio",
        help="order Label Studio's tasks by doubt: its ML backend",
        description="Serves a saved classifier of images as Label Studio's ML backend: a guess for "
        "each task, and a score that is low where the model doubts. A new file of the model is "
        "loaded when it appears.",
    )
    parser.set_defaults(command=label_studio)
    add = parser.add_argument
    add_image_model(add, at_least)
    add_doubt(add, "--score")
    add(
        "--local-root",
        type=Path,
        metavar="DIR",
        help="LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT of Label Studio, to read local files from",
    )
    add("--host", default=_LOOPBACK[0], help="address to listen at (default 127.0.0.1)")
    add("--port", type=at_least(1, 65535), default=9090, metavar="N", help="default 9090")


def label_studio(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C, and returns the exit status."""
    check_model_file(options.model)
    check_divisor(options.divide_by)
    if options.local_root is not None and not options.local_root.is_dir():
        raise ValueError(
            f"Expected a folder for --local-root. Received: {options.local_root}. "
            "Hint: what Label Studio calls LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."
        )
    user, password = (os.environ.get(f"BASIC_AUTH_{name}") for name in ("USER", "PASS"))
    if options.host not in _LOOPBACK and not (user and password):
        raise ValueError(
            f"Expected BASIC_AUTH_USER and BASIC_AUTH_PASS with --host={options.host}, which other "
            "machines can reach. Received: none. Hint: set both, and enter them in Label Studio."
        )
    start_tensorflow()
    from tfp_bayes.label.backend import LabelStudioBackend, make_backend
    from tfp_bayes.label.task_images import TaskImages, studio_of_environment

    file = ModelFile(options)
    file.load()  # an error now
    images = TaskImages(options.local_root)
    backend = LabelStudioBackend(file.load, images, options.score, studio_of_environment())
    app = make_backend(backend, user, password)
    print(f"Connect Label Studio to http://{options.host}:{options.port}", flush=True)
    app.run(options.host, options.port, threaded=True)
    return 0


class ModelFile:
    """A model in its file, loaded again when the file has changed.

    Args:
        options: Of the command.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self._seen: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._served: ServedModel | None = None

    def load(self) -> ServedModel:
        """Returns the model of the newest file; the one before if that cannot be read."""
        with self._lock:
            try:
                stat = self.options.model.stat()
                seen = (stat.st_mtime_ns, stat.st_size)
                if self._served is None or seen != self._seen:
                    self._served = self._read()
                    self._seen = seen
            except (OSError, ValueError) as error:
                if self._served is None:
                    raise
                print(f"Kept the model before: {error}", file=sys.stderr)
            return self._served

    def _read(self) -> ServedModel:
        from tfp_bayes.evaluation.sources import as_predictor
        from tfp_bayes.label.backend import ServedModel

        options = self.options
        version = hashlib.sha256(options.model.read_bytes()).hexdigest()[:8]
        predictor = as_predictor(options.model, "MODEL")
        model = getattr(predictor, "model", predictor)
        height, width, channels = image_shape(model)
        if height is None or width is None or channels is None:
            raise ValueError(
                "Expected a model of images of one size, to which those of tasks are resized. "
                f"Received: images of shape {(height, width, channels)}. "
                "Hint: keras.Input((64, 64, 3))."
            )
        names = class_names_of(options.model, options.classes, num_classes_of(model))
        say_scale(model, options.divide_by)

        def predict(images: np.ndarray) -> Prediction:
            x = scaled(images, None, options.divide_by)
            return predict_classes(predictor, x, options.num_samples, options.seed)

        shape = height, width, channels
        return ServedModel(predict, names, shape, f"{options.model.stem}-{version}")
