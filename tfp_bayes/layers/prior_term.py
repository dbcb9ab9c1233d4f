"""Prior terms: how layers state them and how the model weights them.

A prior term is the KL divergence of a layer's weights from their prior, in nats, not weighted.
Inside `collected_prior_terms`, which a `BayesianModel` opens around its call, layers hand it over
as it is, and the model weights the sum once. In any other model a layer adds its term to the
losses of that model, times its own `kl_weight`, which `tfp_bayes.KLWeight` sets.
"""

import math
import threading
from collections.abc import Callable

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import current_call


class collected_prior_terms:  # noqa: N801  # a context manager; generators lose to AutoGraph
    """Collects the prior terms that layers state inside, as a dictionary from id(layer) to nats.

    Within another collection it gives that one. Threads, as those of the replicas of a
    distribution strategy, have collections of their own.
    """

    def __enter__(self) -> dict[int, tf.Tensor]:
        self._outer = _collection()
        terms = {} if self._outer is None else self._outer
        _local.terms = terms
        return terms

    def __exit__(self, *_) -> None:
        _local.terms = self._outer


def are_collected() -> bool:
    """Tells whether prior terms that are stated now are collected."""
    return _collection() is not None


def state_prior_term(layer: keras.layers.Layer, divergence: Callable[[], tf.Tensor]) -> None:
    """States the prior term of a layer, in its call with training=True; once, if it is shared.

    Args:
        layer: The layer, with a weight `kl_weight`.
        divergence: Computes the term, a float32 scalar in nats.
    """
    terms = _collection()
    if terms is not None:
        if id(layer) not in terms:
            terms[id(layer)] = divergence()
        return
    call = current_call()
    if call is None or layer.__dict__.get("_stated_in") is not call:
        layer._stated_in = call
        # Functional models do without their own `add_loss`, not without losses.
        keras.layers.Layer.add_loss(layer, _weighted(divergence(), layer.kl_weight))


def total(terms: tf.Tensor) -> tf.Tensor:
    """Returns the sum of terms of a divergence, a double-precision scalar.

    Half precision ends at 65504, and XLA adds one number after the other on a CPU: in single
    precision, a sum over the weights of VGG16 is then wrong by 0.1 %.
    """
    terms = terms if terms.dtype == tf.float64 else tf.cast(terms, tf.float32)
    if terms.shape.rank:
        terms = tf.reduce_sum(terms, axis=-1)  # few enough; the copy in doubles is small
    return tf.reduce_sum(tf.cast(terms, tf.float64))


def add_kl_weight(layer: keras.layers.Layer) -> keras.Variable:
    """Makes the weight of prior terms: not a number until somebody knows 1 / num_train."""
    return layer.add_weight(
        name="kl_weight",
        shape=(),
        initializer=keras.initializers.Constant(math.nan),
        dtype="float32",
        trainable=False,
        autocast=False,
    )


def check_known(weight: keras.Variable) -> None:
    """Refuses to train under a weight that was never set.

    It looks at the value as it is when a graph is traced, because XLA drops assertions.

    Raises:
        ValueError: If the weight is not a number.
    """
    with tf.init_scope():
        value = float(tf.convert_to_tensor(weight.value))
    if math.isnan(value):
        raise ValueError(
            "Expected a known weight of the prior. Received: kl_weight, which was never set. "
            "Hint: fit a tfp_bayes.BayesianModel, or pass "
            "callbacks=[tfp_bayes.KLWeight(num_train=len(x))] to fit; elsewhere call "
            "tfp_bayes.set_kl_weight(model, 1 / num_train) first."
        )


def _weighted(kl: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
    """Returns weight * kl, and refuses to be differentiated under an unknown weight.

    Its gradient is asked for by whoever trains on the layer's loss, and by nobody else: an
    exploring call, or a loop that weights `kl_divergence(model)` itself, goes through.
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
