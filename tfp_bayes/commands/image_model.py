"""Options and checks of saved models that classify images, shared by several commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfp_bayes._plumbing.score_names import UNCERTAINTY_SCORES
from tfp_bayes.commands.sampling import add_sampling

if TYPE_CHECKING:
    import keras

    from tfp_bayes.prediction import Prediction


def add_image_model(add, at_least) -> None:
    """Add the argument of the model, and the options of its predictions.

    Args:
        add: Method `add_argument` of the parser.
        at_least: Function of an integer that returns a parser of integers of at least that value.
    """
    add("model", type=Path, help="model saved as .keras")
    add_sampling(add, at_least)
    add(
        "--classes",
        metavar="A,B,...",
        help="names of the classes in the model's order (default: class_names.json in the model's "
        "folder, which `tfp-bayes active-learning` writes, or else numbers)",
    )
    add("--divide-by", type=float, default=1.0, metavar="X", help="divide pixels, 0 to 255, by X")


def add_uncertainty(add, option: str) -> None:
    """Add an option for the measure of uncertainty.

    Args:
        add: Method `add_argument` of the parser.
        option: Name of the option.
    """
    default, *others = UNCERTAINTY_SCORES
    add(
        option,
        choices=UNCERTAINTY_SCORES,
        default=default,
        metavar="MEASURE",
        help=f"measure of uncertainty: {default} (default), {' or '.join(others)}",
    )


def check_model_file(path: Path) -> None:
    """Raise ValueError unless MODEL is an existing .keras file."""
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"Expected a .keras file for MODEL. Received: {path}. "
            'Hint: write one with model.save("model.keras").'
        )


def image_shape(model: keras.Model) -> tuple[int | None, ...]:
    """Return the input shape (H, W, C) of a model. None means any height or width."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] not in (1, 3, 4):
        raise ValueError(
            "Expected a model of one image input (N, H, W, C), where C is 1, 3 or 4. "
            f"Received: inputs of shape {shape}. Hint: this command classifies image files."
        )
    return shape[1:]


def num_classes_of(model: keras.Model) -> int:
    """Return the number of classes K, from the model's output shape."""
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(
            "Expected a model that classifies each image, with softmax outputs (N, K). "
            f"Received: outputs of shape {shape}. Hint: call predict_uncertainty in Python."
        )
    return shape[1]


def predict_classes(predictor: Any, x: Any, num_samples: int | None, seed: int) -> Prediction:
    """Return the prediction of a classifier.

    Raises:
        ValueError: If the model is not a classifier.
    """
    prediction = predictor.predict_uncertainty(x, num_samples=num_samples, seed=seed)
    if prediction.likelihood != "categorical":
        raise ValueError(
            "Expected a model that predicts one class per image, likelihood 'categorical'. "
            f"Received: likelihood={prediction.likelihood!r}. "
            "Hint: call predict_uncertainty in Python."
        )
    return prediction


def class_names_of(model: Path, given: str | None, num_classes: int) -> list[str]:
    """Return K names: the given ones, those in the model's folder, or numbers.

    Args:
        model: Path of the .keras file.
        given: Names separated by commas, or None.
        num_classes: Number of classes K.
    """
    from tfp_bayes.studies.predictions import CLASS_NAMES, check_names_of_outputs, read_class_names

    if given is not None:
        names = [name.strip() for name in given.split(",")]
        check_names_of_outputs(names, num_classes, "--classes")
        return names
    names, known = read_class_names(model.parent, num_classes)
    if known:
        print(f"Class names are from {model.parent / CLASS_NAMES}", file=sys.stderr)
    return names
