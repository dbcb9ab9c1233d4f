"""`tfp-bayes label-studio`: a saved model sorts the tasks of Label Studio by uncertainty."""

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
    add_image_model,
    add_uncertainty,
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
    """Add the command to a parser's subcommands.

    Args:
        commands: Subcommands of the parser.
        at_least: Function of a smallest and a largest integer that returns a parser of integers
            in that range.
    """
    parser = commands.add_parser(
        "label-studio",
        help="serve an ML backend that sorts Label Studio's tasks by uncertainty",
        description="Serves a saved image classifier as an ML backend of Label Studio: a proposed "
        "label for each task, and a score that is low if the model is uncertain. If the model's "
        "file changes, it is loaded again.",
    )
    parser.set_defaults(command=label_studio)
    add = parser.add_argument
    add_image_model(add, at_least)
    add_uncertainty(add, "--score")
    add(
        "--local-root",
        type=Path,
        metavar="DIR",
        help="folder of local files: Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
    )
    add("--host", default=_LOOPBACK[0], help="address to listen on (default 127.0.0.1)")
    add("--port", type=at_least(1, 65535), default=9090, metavar="N", help="port (default 9090)")


def label_studio(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, and return the exit status."""
    check_model_file(options.model)
    check_divisor(options.divide_by)
    if options.local_root is not None and not options.local_root.is_dir():
        raise ValueError(
            f"Expected a folder for --local-root. Received: {options.local_root}. "
            "Hint: pass Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."
        )
    user, password = (os.environ.get(f"BASIC_AUTH_{name}") for name in ("USER", "PASS"))
    if options.host not in _LOOPBACK and not (user and password):
        raise ValueError(
            f"Expected BASIC_AUTH_USER and BASIC_AUTH_PASS with --host={options.host}, which other "
            "machines can reach. Received: no credentials. Hint: set both environment variables, "
            "and enter their values in Label Studio."
        )
    start_tensorflow()
    from tfp_bayes.label.backend import LabelStudioBackend, make_backend
    from tfp_bayes.label.task_images import TaskImages, studio_of_environment

    file = ModelFile(options)
    file.load()  # raises errors now
    images = TaskImages(options.local_root)
    backend = LabelStudioBackend(file.load, images, options.score, studio_of_environment())
    app = make_backend(backend, user, password)
    print(f"Connect Label Studio to http://{options.host}:{options.port}", flush=True)
    app.run(options.host, options.port, threaded=True)
    return 0


class ModelFile:
    """A model that is loaded again when its file changes.

    Args:
        options: Options of the command.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self._seen: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._served: ServedModel | None = None

    def load(self) -> ServedModel:
        """Return the current model, or the previous one if the new file cannot be read."""
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
                print(f"Using the previous model: {error}", file=sys.stderr)
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
                "Expected a model with a fixed image size, to which the images are resized. "
                f"Received: images of shape {(height, width, channels)}. "
                "Hint: give the model a size, such as keras.Input((64, 64, 3))."
            )
        names = class_names_of(options.model, options.classes, num_classes_of(model))
        say_scale(model, options.divide_by)

        def predict(images: np.ndarray) -> Prediction:
            x = scaled(images, None, options.divide_by)
            return predict_classes(predictor, x, options.num_samples, options.seed)

        shape = height, width, channels
        return ServedModel(predict, names, shape, f"{options.model.stem}-{version}")
