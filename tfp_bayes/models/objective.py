"""The objective of a Bayesian model: the negative evidence bound per observation."""

import threading
from typing import NamedTuple

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import CompiledLosses
from tfp_bayes.layers import variational_layers
from tfp_bayes.layers.prior_term import check_known
from tfp_bayes.models.stated_likelihood import ObservedLoss


class DataTerm(NamedTuple):
    """The contribution of a batch of data to the loss, as scalars.

    Args:
        trained: Mean loss that training minimizes: the NLL, or a modified NLL (`beta`, label
            smoothing).
        nll: Mean negative log likelihood per observation in nats, times the loss weight of the
            output.
        count: Number of observations of all outputs together.
    """

    trained: tf.Tensor
    nll: tf.Tensor
    count: tf.Tensor


class DataTerms:
    """Compute data terms from the compiled losses, under the likelihood of a model.

    Args:
        compiled: Keras' compiled loss. Its losses of single outputs are wrapped.
        likelihoods: One name for all outputs, or one name per output.
    """

    def __init__(self, compiled, likelihoods: list[str]):
        self.likelihoods = likelihoods
        self.losses = CompiledLosses(compiled, self._observe)
        self._local = threading.local()  # each replica calls from its own thread

    def __call__(self, y, y_pred, sample_weight, training: bool) -> DataTerm:
        """Return the data term of one batch."""
        batch = self._local.batch = _Batch(keras.tree.flatten(y_pred), training)
        try:
            self.losses(y, y_pred, sample_weight)
        finally:
            self._local.batch = None
        trained, nll, count = (tf.add_n(parts) for parts in zip(*batch.sums))
        return DataTerm(
            tf.math.divide_no_nan(trained, count), tf.math.divide_no_nan(nll, count), count
        )

    def _observe(self, loss: keras.losses.Loss, loss_weight: float | None):
        """Return the function that Keras calls for the mean loss of one output."""
        observed = {}

        def mean(y, y_pred, sample_weight=None) -> tf.Tensor:
            batch = self._local.batch
            name = self._likelihood_of(y_pred, batch.outputs)
            if name not in observed:
                observed[name] = ObservedLoss(loss, name)
            each = observed[name]
            nll, count = trained, _ = each.sums(each.nll, y, y_pred, sample_weight)
            if batch.training and each.trained is not each.nll:
                trained, _ = each.sums(each.trained, y, y_pred, sample_weight)
            weight = 1.0 if loss_weight is None else loss_weight
            batch.sums.append((weight * trained, weight * nll, count))
            return tf.math.divide_no_nan(nll, count) / num_replicas()

        return mean

    def _likelihood_of(self, y_pred, outputs: list) -> str:
        if len(self.likelihoods) == 1:
            return self.likelihoods[0]
        (index,) = (i for i, each in enumerate(outputs) if each is y_pred)
        return self.likelihoods[index]


class _Batch:
    """Sums that accumulate while Keras iterates over the outputs of one batch."""

    def __init__(self, outputs: list, training: bool):
        self.outputs = outputs
        self.training = training
        self.sums: list[tuple] = []


class Bound(NamedTuple):
    """The loss of a batch and the penalty that it includes, as scalars; no penalty is None."""

    loss: tf.Tensor
    penalty: tf.Tensor | None


def negative_bound(
    data: DataTerm, priors: list[tf.Tensor], penalties: list, kl_weight: keras.Variable, num_rows
) -> Bound:
    """Return the training loss per observation.

    The loss is data + priors / (num_train * observations per example) + penalties. The number of
    observations per example is that of this batch. Within each step, data and prior thus have the
    same proportion as in the evidence bound, even if masks hide a different number of time steps
    in each batch.

    Args:
        data: Data term of the batch.
        priors: Terms of the negative log prior in nats, such as the KL divergence.
        penalties: Regularizers and other losses of layers, added as in Keras.
        kl_weight: 1 / num_train, times a temperature.
        num_rows: Number of examples in the batch.

    Raises:
        ValueError: If there is a prior whose weight was never set.
    """
    loss = data.trained
    if priors:
        check_known(kl_weight)
        per_example = data.count / tf.cast(num_rows, data.count.dtype)
        weight = tf.cast(kl_weight.value, loss.dtype)
        total = tf.cast(tf.add_n(priors), loss.dtype)
        loss += tf.math.divide_no_nan(weight * total, per_example)
    penalty = None
    if penalties:
        penalty = tf.add_n([tf.reduce_sum(tf.cast(each, loss.dtype)) for each in penalties])
        loss += penalty
    return Bound(loss, penalty)


def num_replicas() -> int:
    """Return the number of replicas, by which Keras divides a loss before it sums gradients."""
    return tf.distribute.get_strategy().num_replicas_in_sync


_ATTRIBUTE = "_tfp_bayes_prior_terms"


def attach_prior_terms(outputs, terms: dict[int, tf.Tensor]) -> None:
    """Attach to the outputs of a call the prior terms that layers stated during the call."""
    first = keras.tree.flatten(outputs)[0]
    if tf.is_tensor(first):
        setattr(first, _ATTRIBUTE, terms)


def layers_divergence(model: keras.Model, y_pred) -> tf.Tensor:
    """Return the sum of the prior terms of variational layers in nats, float32.

    Terms stated during the call that computed `y_pred` are used. They are recomputed for layers
    that stated none, or that stated theirs inside of a loop.
    """
    terms = getattr(keras.tree.flatten(y_pred)[0], _ATTRIBUTE, {})
    total = tf.constant(0.0)
    for layer in variational_layers(model):
        term = terms.get(id(layer))
        if term is None or not _is_reachable(term):
            term = layer.kl_divergence()
        total += term
    return total


def _is_reachable(tensor: tf.Tensor) -> bool:
    if tf.executing_eagerly():
        return hasattr(tensor, "numpy")
    return getattr(tensor, "graph", None) is tf.compat.v1.get_default_graph()
