"""The normal distribution that SWAG fits to its snapshots."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.inference.saved import SavedPosterior, saved_as


@saved_as
class SWAGPosterior(SavedPosterior):
    """A normal distribution over weights: a mean, and a diagonal plus a low-rank covariance.

    `SWAG.fit` returns it. Each draw is

        mean + sqrt(T) (scale * z1 / sqrt(2) + D^T z2 / sqrt(2 (K - 1))),

    where z1 and z2 are standard normal. The covariance is therefore T times the average of
    diag(scale^2) and D^T D / (K - 1), as in the paper for T = 1. All variables share z2, which
    preserves covariances between layers.

    Draws do not include the statistics of `BatchNormalization`, and the model's statistics are
    wrong for them. A `Predictor` therefore refuses this posterior for networks with
    `BatchNormalization`; `SWAG` returns stored draws for these, see `materialize`.

    Args:
        model: The built model that the weights belong to.
        mean: Means of the weights, one array (...) for each of `variables`.
        scale: Standard deviations of the weights, one array (...) for each of `variables`.
        deviations: D: deviations of K >= 2 snapshots from the mean, one array (K, ...) for each of
            `variables`.
        variables: The variables of `model` that are drawn. None means
            `model.trainable_variables`.
        temperature: Factor T that multiplies the covariance.

    Attributes:
        variables: As given.
        temperature: As given.
        num_draws: None, because the number of different draws is unlimited.

    Raises:
        ValueError: If the number of arrays or their shapes do not match, or the temperature is not
            positive.

    Reference:
        Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
        equation 1, arXiv:1902.02476.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> snapshots = [np.random.normal(size=(20, *v.shape)) for v in model.trainable_variables]
    >>> mean = [s.mean(0) for s in snapshots]
    >>> posterior = SWAGPosterior(
    ...     model, mean, [s.std(0) for s in snapshots], [s - m for s, m in zip(snapshots, mean)])
    >>> p = Predictor(model, posterior=posterior).predict_uncertainty(np.ones((4, 2)), 30, seed=0)
    >>> p.mean.shape
    (4, 3)
    """

    num_draws = None

    def __init__(
        self,
        model: keras.Model,
        mean: Sequence[ArrayLike],
        scale: Sequence[ArrayLike],
        deviations: Sequence[ArrayLike],
        variables: Sequence[keras.Variable] | None = None,
        temperature: float = 1.0,
    ):
        check_positive(temperature=temperature)
        self.temperature = float(temperature)
        self.model = model
        self.variables = list(model.trainable_variables if variables is None else variables)
        shapes = [tuple(v.shape) for v in self.variables]
        found = [[np.shape(each) for each in part] for part in (mean, scale, deviations)]
        ranks = {shape[:1] for shape in found[2]}
        matches = found[0] == found[1] == [shape[1:] for shape in found[2]] == shapes
        if not matches or len(ranks) != 1 or ranks & {(), (0,), (1,)}:
            raise ValueError(
                f"Expected arrays of shapes {shapes} for `mean` and `scale`, and of shapes "
                "(K, ...), with the same K >= 2 in all, for `deviations`. Received: "
                f"{found[0]}, {found[1]} and {found[2]}. "
                "Hint: pass one array for each of `variables`, in their order."
            )
        # Variables instead of constants, so that exported graphs do not contain the weights inline.
        self._mean, self._scale, self._deviations = (
            [_stored(each, v) for each, v in zip(part, self.variables)]
            for part in (mean, scale, deviations)
        )
        (self.rank,) = ranks.pop()
        self.note_others()

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Return a draw that depends on `seed` only, see `Posterior.draw`."""
        del index
        z2 = noise.normal([self.rank], fold_in(seed, 0), tf.float64)
        z2 /= np.sqrt(2 * (self.rank - 1) / self.temperature)
        draws = []
        for i, variable in enumerate(self.variables):
            mean, scale, deviations = self._mean[i], self._scale[i], self._deviations[i]
            z1 = noise.normal(mean.shape, fold_in(seed, i + 1), mean.dtype)
            value = mean + scale * z1 / np.sqrt(2 / self.temperature)
            value += tf.tensordot(tf.cast(z2, mean.dtype), deviations, 1)
            value = tf.cast(value, variable.dtype)
            draws.append(value if variable.constraint is None else variable.constraint(value))
        return draws

    def center(self) -> list[tf.Tensor]:
        """Return the mean of the snapshots (stochastic weight averaging)."""
        return [tf.cast(mean, v.dtype) for mean, v in zip(self._mean, self.variables)]

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        parts = {"mean": self._mean, "scale": self._scale, "deviations": self._deviations}
        arrays = {
            f"{name}_{i}": each.numpy()
            for name, part in parts.items()
            for i, each in enumerate(part)
        }
        return arrays, {"temperature": self.temperature}

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "SWAGPosterior":
        """See `SavedPosterior.from_state`."""
        mean, scale, deviations = (
            [arrays[f"{name}_{i}"] for i in range(len(variables))]
            for name in ("mean", "scale", "deviations")
        )
        # Files of earlier releases have no temperature; the default of 1 is right for them.
        return SWAGPosterior(model, mean, scale, deviations, variables, **settings)


def _stored(array: ArrayLike, variable: keras.Variable) -> tf.Variable:
    # In half precision, rounding would erase the differences between snapshots.
    dtype = tf.float64 if variable.dtype == "float64" else tf.float32
    return tf.Variable(tf.cast(np.asarray(array), dtype), trainable=False)
