"""Saved models that classify images, as several commands take them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfp_bayes._plumbing.score_names import UNCERTAINTY_SCORES

if TYPE_CHECKING:
    import keras

    from tfp_bayes.prediction import Prediction


def add_image_model(add, at_least) -> None:
    """Adds the model, and the options that say how it predicts.

    Args:
        add: The parser's `add_argument`.
        at_least: From a least integer to what reads one.
    """
    add("model", type=Path, help="a model saved as .keras")
    add("--num-samples", type=at_least(1), metavar="S", help="posterior samples (the model's own)")
    add("--seed", type=at_least(0), default=0, metavar="N", help="decides the samples (default 0)")
    add(
        "--classes",
        metavar="A,B,...",
        help="names of the classes in the model's order (default: class_names.json in the model's "
        "folder, which `tfp-bayes active-learning` writes; without it, numbers)",
    )
    add("--divide-by", type=float, default=1.0, metavar="X", help="divide pixels, 0 to 255, by X")


def add_doubt(add, option: str) -> None:
    """Adds the choice of what says how much a model doubts; arguments as of `add_image_model`."""
    default, *others = UNCERTAINTY_SCORES
    add(
        option,
        choices=UNCERTAINTY_SCORES,
        default=default,
        metavar="DOUBT",
        help=f"{default} (default), {' or '.join(others)}",
    )


def check_model_file(path: Path) -> None:
    """Raises ValueError unless MODEL is a .keras file; before TensorFlow starts."""
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f'Expected a .keras file for MODEL. Received: {path}. Hint: model.save("model.keras").'
        )


def image_shape(model: keras.Model) -> tuple[int | None, ...]:
    """Returns the shape (H, W, C) that a model takes; None where it takes any."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] not in (1, 3, 4):
        raise ValueError(
            "Expected a model of one image (N, H, W, C), C of 1, 3 or 4. "
            f"Received: inputs of shape {shape}. Hint: this command classifies image files."
        )
    return shape[1:]


def num_classes_of(model: keras.Model) -> int:
    """Returns K, known before anything is predicted."""
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(
            "Expected a model that classifies each image, outputs (N, K) of a softmax. "
            f"Received: outputs of shape {shape}. Hint: call predict_uncertainty in Python."
        )
    return shape[1]


def predict_classes(predictor: Any, x: Any, num_samples: int | None, seed: int) -> Prediction:
    """Returns the prediction of a classifier.

    Raises:
        ValueError: If the model is none.
    """
    prediction = predictor.predict_uncertainty(x, num_samples=num_samples, seed=seed)
    if prediction.likelihood != "categorical":
        raise ValueError(
            "Expected a model of one class an image, likelihood 'categorical'. "
            f"Received: likelihood={prediction.likelihood!r}. "
            "Hint: call predict_uncertainty in Python."
        )
    return prediction


def class_names_of(model: Path, given: str | None, num_classes: int) -> list[str]:
    """Returns K names: those given, those in the model's folder, or numbers.

    Args:
        model: The .keras file.
        given: Names with commas, or None.
        num_classes: K.
    """
    from tfp_bayes.studies.predictions import CLASS_NAMES, check_class_names, read_class_names

    if given is not None:
        names = [name.strip() for name in given.split(",")]
        check_class_names(names, num_classes, "--classes")
        return names
    names, known = read_class_names(model.parent, num_classes)
    if known:
        print(f"Names of classes from {model.parent / CLASS_NAMES}", file=sys.stderr)
    return names
