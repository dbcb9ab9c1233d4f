"""Turns a Bayesian model back into an ordinary Keras one."""

from collections.abc import Callable

import keras

from tfp_bayes.models.conversion import GraphCopy, Replacement, copy_layer
from tfp_bayes.models.layer_pairs import pair_of_bayesian, pair_of_keras
from tfp_bayes.models.layer_state import copy_state
from tfp_bayes.models.randomness import check_deterministic


def to_deterministic(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with plain Keras layers, whose weights are the posterior means.

    Use it for a single pass at the mean weights, to quantize, or to hand a network to somebody
    without this library. Dropout is off at inference, also where it was called with
    `training=True`, and nothing random is left. The inverse of `to_bayesian`.

    Args:
        model: A built functional or Sequential model, a `BayesianModel` or not; not changed.

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
    """Deterministic twin of a model, kept up to date with the model's weights.

    Args:
        model: See `to_deterministic`.

    Attributes:
        model: The copy.
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
    if pair_of_keras(layer, "mc_dropout"):  # perhaps called with training=True
        plain = copy_layer(layer)
        return Replacement(plain, lambda: copy_state(layer, plain))
    return None
