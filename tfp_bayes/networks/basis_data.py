"""Checks and encodings of what a basis regression is made from and learns from."""

import keras
import numpy as np

from tfp_bayes.layers import stochastic_layers


def input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Returns a new input like one of another model."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def example_weights(y, sample_weight, class_weight: dict[int, float] | None) -> np.ndarray | None:
    """Returns the weights of examples (B,), of which Keras takes one kind at a time, or None."""
    if class_weight is None:
        return sample_weight
    return np.array([class_weight.get(int(label), 1.0) for label in np.reshape(y, -1)])


def check_features(features: keras.Model) -> None:
    """Raises ValueError unless a model gives (N, F) without noise."""
    random = stochastic_layers(features)
    if random:
        raise ValueError(
            "Expected `features` without stochastic layers, as the head's posterior is exact "
            f"given the features. Received: {[each.name for each in random]}. "
            "Hint: BayesianBasisRegression(to_deterministic(features))."
        )
    if len(features.output_shape) != 2:
        raise ValueError(
            "Expected a model with one output (N, F) for `features`. Received: outputs of "
            f"shape {features.output_shape}. Hint: end it in Flatten or global pooling."
        )


def one_hot(y, num_classes: int) -> np.ndarray:
    """Returns integer labels (B,) as targets (B, K).

    Raises:
        ValueError: If a label is no class number.
    """
    labels = np.asarray(y).reshape(-1)
    if labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(num_classes)).all():
        raise ValueError(
            f"Expected integer labels in [0, {num_classes}). "
            f"Received: {labels.dtype} labels from {labels.min()} to {labels.max()}. "
            "Hint: task='regression' takes real targets."
        )
    return np.eye(num_classes)[labels]
