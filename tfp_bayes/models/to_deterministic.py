"""Turn a Bayesian model back into a plain Keras model."""

from collections.abc import Callable

import keras

from tfp_bayes.models.conversion import GraphCopy, Replacement, copy_layer
from tfp_bayes.models.layer_pairs import pair_of_bayesian, pair_of_keras
from tfp_bayes.models.layer_state import copy_state
from tfp_bayes.models.randomness import check_deterministic


def to_deterministic(model: keras.Model) -> keras.Model:
    """Return a copy of a model with plain Keras layers, whose weights are the posterior means.

    Use it for a single forward pass at the mean weights, for quantization, or to share a network
    with people who do not have this library. Nothing in the copy is random: dropout is off at
    inference, even where it was called with `training=True`. It is the inverse of `to_bayesian`.

    Args:
        model: A built functional or Sequential model, a `BayesianModel` or not. It is not changed.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: If the model has no graph, a layer cannot be copied, or a layer is random at
            inference and has no plain twin.

    Example:

    >>> model = to_deterministic(BayesianCNN(inference="flipout"))
    >>> [type(layer).__name__ for layer in model.layers[2:4]]
    ['Conv2D', 'Conv2D']
    """
    return MeanCopy(model).model


class MeanCopy:
    """A deterministic copy of a model, which `refresh` updates to the model's current weights.

    Args:
        model: See `to_deterministic`.

    Attributes:
        model: The copy.
        refresh: Function without arguments that updates the weights of the copy.
    """

    def __init__(self, model: keras.Model):
        copy = GraphCopy(model, _replace)
        self.model = copy.model
        self.refresh: Callable[[], None] = copy.fill
        check_deterministic(self.model)


def _replace(layer: keras.layers.Layer) -> Replacement | None:
    pair = pair_of_bayesian(layer)
    if pair is not None:
        plain = pair.make_keras(layer)
        return Replacement(plain, lambda: pair.fill_keras(layer, plain))
    if pair_of_keras(layer, "mc_dropout"):  # a Replacement drops training=True from its calls
        plain = copy_layer(layer)
        return Replacement(plain, lambda: copy_state(layer, plain))
    return None
