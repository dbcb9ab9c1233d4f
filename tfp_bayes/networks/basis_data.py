"""Checks and encodings of the features and the data of a basis regression."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.fresh import build_optimizer
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.networks.bayesian_cnn import BayesianCNN
from tfp_bayes.prediction.finite import finite_rows, nan_unless

_ROWS_AT_A_TIME = 8192  # bounds the memory of features in double precision


def input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Create an input with the shape, dtype and name of another model's input."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def example_weights(y, sample_weight, class_weight: dict[int, float] | None) -> np.ndarray | None:
    """Return the weights of examples (B,), or None. Keras takes only one of both arguments."""
    if class_weight is None:
        return sample_weight
    return np.array([class_weight.get(int(label), 1.0) for label in np.reshape(y, -1)])


def as_features(given: keras.Model | int | None, seed: int | None) -> keras.Model:
    """Return a model for the argument `features`: a model, a number of features, or None."""
    if given is None:
        network = BayesianCNN(inference="deterministic", seed=seed)
        return keras.Model(network.inputs, network.layers[-2].output, name="features")
    if isinstance(given, keras.Model):
        return given
    check_integers(1, features=given)
    return keras.Sequential([keras.Input((given,), name="features"), keras.layers.Identity()])


def are_inputs(features: keras.Model) -> bool:
    """Return whether the inputs themselves are the features."""
    return isinstance(features, keras.Sequential) and all(
        type(layer) is keras.layers.Identity for layer in features.layers
    )


def without_split(data: tuple, fit_arguments: Mapping[str, Any]) -> tuple:
    """Return (x, y, sample_weight) without the examples that `validation_split` holds out."""
    split = fit_arguments.get("validation_split")
    if not split or fit_arguments.get("validation_data") is not None:
        return data
    # Keras holds out the last examples, before any shuffling.
    size = math.floor(count_rows(data[0]) * (1 - split))
    return keras.tree.map_structure(lambda a: None if a is None else a[:size], data)


def empty_history(model: keras.Model) -> keras.callbacks.History:
    """Return the history of 0 epochs, and build the optimizer of the model, as saving needs."""
    build_optimizer(model)
    history = keras.callbacks.History()
    history.on_train_begin()
    return history


def check_features(features: keras.Model) -> None:
    """Raise ValueError unless a model returns features (N, F) without noise."""
    random = stochastic_layers(features)
    if random:
        raise ValueError(
            "Expected `features` without stochastic layers, because the posterior of the head is "
            f"computed for fixed features. Received: {[each.name for each in random]}. "
            "Hint: BayesianBasisRegression(to_deterministic(features))."
        )
    shape = getattr(features, "output_shape", None) if features.built else None
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[1], int):
        raise ValueError(
            "Expected a built model with one output (N, F) for `features`. Received: outputs of "
            f"shape {shape}. Hint: end it in Flatten or global pooling; choose one of several "
            "outputs with keras.Model(model.inputs, model.outputs[0])."
        )


def one_hot(y, num_classes: int) -> np.ndarray:
    """Encode integer labels (B,) as one-hot targets (B, K).

    Raises:
        ValueError: If a label is not a class number.
    """
    labels = np.asarray(y).reshape(-1)
    if labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(num_classes)).all():
        raise ValueError(
            f"Expected integer labels in [0, {num_classes}). "
            f"Received: {labels.dtype} labels from {labels.min()} to {labels.max()}. "
            "Hint: task='regression' takes real targets."
        )
    return np.eye(num_classes)[labels]


def joined(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join batches (B, F), because the time for a call of a head hardly depends on their size.

    Raises:
        ValueError: If there is no batch.
    """
    waiting: list[np.ndarray] = []
    for part in parts:
        if waiting and sum(map(len, waiting)) + len(part) > _ROWS_AT_A_TIME:
            yield np.concatenate(waiting)
            waiting = []
        waiting.append(part)
    if not waiting:
        raise ValueError(
            "Expected at least one batch in `x`. Received: an empty dataset. "
            "Hint: check its filters and its cardinality()."
        )
    yield np.concatenate(waiting)


def nan_unless_finite(features: np.ndarray, x: Any) -> np.ndarray:
    """Return features (B, F) with NaN in rows whose inputs are not finite, which ReLU may hide."""
    finite = finite_rows(keras.tree.map_structure(tf.convert_to_tensor, x))
    return np.asarray(nan_unless(finite, tf.convert_to_tensor(features)))
