"""A posterior that consists of stored draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes.inference.saved import SavedPosterior, load_posterior, saved_as


@saved_as
class StoredPosterior(SavedPosterior):
    """S stored draws of a model's weights, with equal probabilities.

    Use it for any posterior that is a finite set of weights, such as the members of an ensemble,
    the states of a Markov chain, or snapshots. By default, a `Predictor` uses every draw once.

    Args:
        model: The built model that the weights belong to.
        draws: One array (S, ...) for each of `variables`.
        variables: The variables of `model` that are drawn. None means `model.weights`.
        combine: "mean" averages the predictions of the draws. "vote" lets each draw vote for its
            most probable class: samples are then votes, and entropies are those of the vote.

    Attributes:
        variables: As given.
        num_draws: S.
        combine: As given.

    Raises:
        ValueError: If the number of arrays or their shapes do not match, or `combine` is neither
            of the two.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")])
    >>> posterior = StoredPosterior(model, [np.random.normal(size=(20, 2, 1)), np.zeros((20, 1))])
    >>> p = Predictor(model, "bernoulli", posterior).predict_uncertainty(np.ones((1, 2)))
    >>> p.mean.shape
    (1, 1)
    >>> posterior.save(tmp_path / "posterior.npz")
    >>> StoredPosterior.load(tmp_path / "posterior.npz", model).num_draws
    20
    """

    def __init__(
        self,
        model: keras.Model,
        draws: Sequence[ArrayLike],
        variables: Sequence[keras.Variable] | None = None,
        combine: str = "mean",
    ):
        check_combine(combine)
        self.model = model
        self.combine = combine
        self.variables = list(model.weights if variables is None else variables)
        arrays = [np.asarray(draw) for draw in draws]
        shapes = [tuple(v.shape) for v in self.variables]
        found = [array.shape for array in arrays]
        lengths = {shape[:1] for shape in found}
        if [s[1:] for s in found] != shapes or len(lengths) != 1 or lengths & {(), (0,)}:
            raise ValueError(
                f"Expected arrays (S, ...) of draws with shapes {shapes} after the first axis, "
                f"and the same S >= 1 in all, for `draws`. Received: shapes {found}. "
                "Hint: pass one array for each of `variables`, in their order."
            )
        self.num_draws = len(arrays[0])
        # Variables instead of constants, so that exported graphs do not contain the weights inline.
        self._stacked = [
            tf.Variable(tf.cast(array, v.dtype), trainable=False)
            for array, v in zip(arrays, self.variables)
        ]
        self.note_others()

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Return draw number `index` modulo S, see `Posterior.draw`."""
        del seed
        return [stack[index % self.num_draws] for stack in self._stacked]

    def center(self) -> list[tf.Tensor]:
        """Return the mean of the draws, or the first draw of variables that hold integers."""
        return [
            tf.reduce_mean(stack, axis=0) if stack.dtype.is_floating else stack[0]
            for stack in self._stacked
        ]

    def assign(self, other: Any) -> bool:
        """See `SavedPosterior.assign`."""
        alike = (
            isinstance(other, StoredPosterior)
            and list(map(id, other.variables)) == list(map(id, self.variables))
            and (other.num_draws, other.combine) == (self.num_draws, self.combine)
        )
        if alike:
            for stack, new in zip(self._stacked, other._stacked, strict=True):
                stack.assign(new)
            self.note_others_of(other)
        return alike

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        arrays = {f"draws_{i}": stack.numpy() for i, stack in enumerate(self._stacked)}
        return arrays, {"combine": self.combine}

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "StoredPosterior":
        """See `SavedPosterior.from_state`."""
        draws = [arrays[f"draws_{i}"] for i in range(len(variables))]
        return StoredPosterior(model, draws, variables, **settings)

    @staticmethod
    def load(path: str | Path, model: keras.Model) -> "StoredPosterior":
        """See `load_posterior`."""
        return load_posterior(path, model)


def check_combine(combine: str) -> None:
    """Raise ValueError unless `combine` is a known way to combine the predictions of draws."""
    if combine not in ("mean", "vote"):
        raise ValueError(
            f"Expected 'mean' or 'vote' for `combine`. Received: combine={combine!r}. "
            "Hint: 'mean' takes into account how confident each draw is."
        )
