"""Prior terms: how layers state them and how the model weights them.

A prior term is the unweighted KL divergence of a layer's weights from their prior, in nats.
A `BayesianModel` calls its layers inside `collected_prior_terms`. There each layer reports its
term, and the model weights the sum once. In any other model each layer multiplies its term by its
own `kl_weight`, which `tfp_bayes.KLWeight` sets, and adds the product to the model's losses.
"""

import math
import threading
from collections.abc import Callable

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import current_call


class collected_prior_terms:  # noqa: N801  # a context manager; generators lose to AutoGraph
    """A context manager that collects prior terms, as a dictionary from id(layer) to nats.

    A context inside another one uses the outer dictionary. Each thread, such as a replica of a
    distribution strategy, has its own dictionary.
    """

    def __enter__(self) -> dict[int, tf.Tensor]:
        self._outer = _collection()
        terms = {} if self._outer is None else self._outer
        _local.terms = terms
        return terms

    def __exit__(self, *_) -> None:
        _local.terms = self._outer


def are_collected() -> bool:
    """Return whether prior terms are currently being collected."""
    return _collection() is not None


def state_prior_term(layer: keras.layers.Layer, divergence: Callable[[], tf.Tensor]) -> None:
    """State the prior term of a layer from its `call` with training=True.

    The term of a layer that a model calls several times is counted once.

    Args:
        layer: Layer with a weight `kl_weight`.
        divergence: Function that computes the term, a float32 scalar in nats.
    """
    terms = _collection()
    if terms is not None:
        if id(layer) not in terms:
            terms[id(layer)] = divergence()
        return
    call = current_call()
    if call is None or layer.__dict__.get("_stated_in") is not call:
        layer._stated_in = call
        # A functional model refuses its own `add_loss`, but reports losses added this way.
        keras.layers.Layer.add_loss(layer, _weighted(divergence(), layer.kl_weight))


def total(terms: tf.Tensor) -> tf.Tensor:
    """Return the sum of the terms of a divergence as a double-precision scalar.

    The largest half-precision number is 65504. On a CPU XLA adds numbers one after the other, so a
    single-precision sum over millions of weights loses several digits.
    """
    terms = terms if terms.dtype == tf.float64 else tf.cast(terms, tf.float32)
    if terms.shape.rank:
        terms = tf.reduce_sum(terms, axis=-1)  # short sums; keeps the float64 copy small
    return tf.reduce_sum(tf.cast(terms, tf.float64))


def add_kl_weight(layer: keras.layers.Layer) -> keras.Variable:
    """Create the weight of a layer's prior term, which is NaN until it is set to 1 / num_train."""
    return layer.add_weight(
        name="kl_weight",
        shape=(),
        initializer=keras.initializers.Constant(math.nan),
        dtype="float32",
        trainable=False,
        autocast=False,
    )


def check_known(weight: keras.Variable) -> None:
    """Raise ValueError if the weight of prior terms was never set.

    The check reads the value while the graph is traced, because XLA drops assertions.

    Raises:
        ValueError: If the weight is NaN.
    """
    with tf.init_scope():
        value = float(tf.convert_to_tensor(weight.value))
    if math.isnan(value):
        raise ValueError(
            "Expected a known weight of the prior. Received: kl_weight, which was never set. "
            "Hint: fit a tfp_bayes.BayesianModel, or pass "
            "callbacks=[tfp_bayes.KLWeight(num_train=len(x))] to fit; in a custom loop, call "
            "tfp_bayes.set_kl_weight(model, 1 / num_train) first."
        )


def _weighted(kl: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
    """Return weight * kl, whose gradient raises an error if the weight was never set.

    Only training on the layer's loss computes this gradient. A single call with training=True, or
    a loop that weights `kl_divergence(model)` itself, therefore works without a weight.
    """

    @tf.custom_gradient
    def product(kl: tf.Tensor, weight: tf.Tensor):
        def gradient(upstream: tf.Tensor):
            check_known(variable)
            return upstream * weight, tf.zeros_like(weight)

        return kl * weight, gradient

    return product(kl, tf.convert_to_tensor(variable.value))


_local = threading.local()


def _collection() -> dict[int, tf.Tensor] | None:
    return getattr(_local, "terms", None)
