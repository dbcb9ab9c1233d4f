"""A posterior that consists of stored draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes.inference import noise_scales as noises
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
        center: Weights at which a `Predictor` linearizes the model, one array for each of
            `variables`. None evaluates the model itself at each draw.
        noise_scales: Standard deviations (D,) of the targets of each output, None for an output
            that contains its own; see `LaplacePosterior`. None if all outputs do.

    Attributes:
        variables: As given.
        num_draws: S.
        combine: As given.
        linearize: Whether there is a `center`, see `Predictor`.
        noise_scales: As given, as variables.

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
        center: Sequence[ArrayLike] | None = None,
        noise_scales: Sequence[ArrayLike | None] | None = None,
    ):
        check_combine(combine)
        self.model = model
        self.combine = combine
        self.variables = list(model.weights if variables is None else variables)
        shapes = [tuple(v.shape) for v in self.variables]
        found = [np.shape(draw) for draw in draws]
        lengths = {shape[:1] for shape in found}
        if [s[1:] for s in found] != shapes or len(lengths) != 1 or lengths & {(), (0,)}:
            raise ValueError(
                f"Expected arrays (S, ...) of draws with shapes {shapes} after the first axis, "
                f"and the same S >= 1 in all, for `draws`. Received: shapes {found}. "
                "Hint: pass one array for each of `variables`, in their order."
            )
        self.num_draws = found[0][0]
        self._stacked = self._as_variables(draws)
        self._check_adapted()
        self._center = None if center is None else self._as_variables(center)
        if self._center is not None and [tuple(v.shape) for v in self._center] != shapes:
            raise ValueError(
                f"Expected arrays of shapes {shapes}, those of `variables`, for `center`. "
                f"Received: shapes {[tuple(v.shape) for v in self._center]}. "
                "Hint: None evaluates the model itself at each draw."
            )
        self.linearize = center is not None
        self.noise_scales = noises.as_noise_scales(noise_scales)
        self.note_others()

    def _check_adapted(self) -> None:
        """Raise ValueError if draws differ in weights that `Normalization` does not read.

        The layer computes with constants, which draws do not replace.
        """
        stacks = {id(v): stack for v, stack in zip(self.variables, self._stacked)}
        for layer in flatten_layers(self.model):
            if not isinstance(layer, keras.layers.Normalization) or layer.input_mean is not None:
                continue  # constants from the configuration
            for v in (layer.adapt_mean, layer.adapt_variance):
                stack = stacks.get(id(v))
                if stack is not None and (stack.numpy() != v.numpy()).any():
                    raise ValueError(
                        "Expected draws with the mean and the variance that layers of `model` are "
                        f"adapted to. Received: others of layer {layer.name!r}, which would not be "
                        "used. Hint: adapt it once, before the members are trained."
                    )

    def _as_variables(self, arrays: Sequence[ArrayLike]) -> list[tf.Variable]:
        # Variables instead of constants, so that exported graphs do not contain the weights inline.
        return [
            tf.Variable(tf.cast(np.asarray(array), v.dtype), trainable=False)
            for array, v in zip(arrays, self.variables)
        ]

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Return draw number `index` modulo S, see `Posterior.draw`."""
        del seed
        return [stack[index % self.num_draws] for stack in self._stacked]

    def center(self) -> list[tf.Tensor]:
        """Return the center as given, or else the mean of the draws.

        The center of variables that hold integers is their first draw.
        """
        if self._center is not None:
            return [tf.identity(each) for each in self._center]
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
            and other.linearize == self.linearize
            and [a is None for a in other._arrays()] == [a is None for a in self._arrays()]
        )
        if alike:
            for own, new in zip(self._arrays(), other._arrays(), strict=True):
                if own is not None:
                    own.assign(new)
            self.note_others_of(other)
        return alike

    def _arrays(self) -> list[tf.Variable | None]:
        """Return the variables that predictions are computed from."""
        return [*self._stacked, *(self._center or ()), *(self.noise_scales or ())]

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        arrays = {f"draws_{i}": stack.numpy() for i, stack in enumerate(self._stacked)}
        arrays |= {f"center_{i}": each.numpy() for i, each in enumerate(self._center or ())}
        arrays |= noises.to_arrays(self.noise_scales)
        return arrays, {"combine": self.combine, "num_outputs": len(self.noise_scales or ())}

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "StoredPosterior":
        """See `SavedPosterior.from_state`."""
        numbers = range(len(variables))
        return StoredPosterior(
            model,
            [arrays[f"draws_{i}"] for i in numbers],
            variables,
            settings.get("combine", "mean"),  # missing in files of the first release
            [arrays[f"center_{i}"] for i in numbers] if "center_0" in arrays else None,
            noises.from_arrays(arrays, settings.get("num_outputs", 0)),
        )

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
