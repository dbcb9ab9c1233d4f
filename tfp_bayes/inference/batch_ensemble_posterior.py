"""Posterior of a BatchEnsemble, stored as shared kernels and the factors of each member."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes.inference.rank_one import COLUMNS, OWN, ROWS, SHARED, Parts, mean_value, member_value
from tfp_bayes.inference.saved import SavedPosterior, saved_as


@saved_as
class BatchEnsemblePosterior(SavedPosterior):
    """Ensemble of M members whose kernels are W * r_m s_m^T, with one W for all members.

    `BatchEnsemble` returns it. Draw m is member m, so sample m of a `Predictor` uses the weights
    of one member in all layers. It stores the weights of one network and, for each member, two
    vectors per kernel and copies of all other weights.

    Args:
        model: Built model that the weights belong to.
        parts: For each of `variables`, either arrays "shared" (...), "rows" (M, ...) and
            "columns" (M, ...), where factors broadcast against the shared kernel, or one array
            "own" (M, ...).
        variables: Variables of `model` that a draw replaces.

    Attributes:
        variables: As given.
        num_draws: Number of members M.

    Raises:
        ValueError: If the number or the shapes of `parts` do not match `variables`.

    Reference:
        Wen, Tran and Ba 2020, "BatchEnsemble: An Alternative Approach to Efficient Ensemble and
        Lifelong Learning", equation 1, arXiv:2002.06715.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False)])
    >>> kernel = {"shared": np.ones((2, 3)), "rows": np.ones((4, 2, 1)),
    ...           "columns": np.arange(4.0).reshape(4, 1, 1) * np.ones((1, 1, 3))}
    >>> posterior = BatchEnsemblePosterior(model, [kernel], model.weights)
    >>> posterior.num_draws, float(posterior.draw(2, None)[0][1, 1])
    (4, 2.0)
    """

    def __init__(
        self,
        model: keras.Model,
        parts: Sequence[Parts],
        variables: Sequence[keras.Variable],
    ):
        self.model = model
        self.variables = list(variables)
        arrays = [{name: np.asarray(each) for name, each in of.items()} for of in parts]
        self.num_draws = _check_shapes(arrays, self.variables)
        # Variables rather than constants, so that exported graphs do not contain the weights.
        self._parts = [
            {
                name: tf.Variable(tf.cast(each, v.dtype), trainable=False)
                for name, each in of.items()
            }
            for of, v in zip(arrays, self.variables)
        ]
        self.note_others()

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Return member `index`, modulo M; see `Posterior.draw`."""
        del seed
        return [member_value(parts, index % self.num_draws) for parts in self._parts]

    def center(self) -> list[tf.Tensor]:
        """Return the mean of the weights of all members."""
        return [mean_value(parts) for parts in self._parts]

    def assign(self, other: Any) -> bool:
        """See `SavedPosterior.assign`."""
        alike = (
            isinstance(other, BatchEnsemblePosterior)
            and list(map(id, other.variables)) == list(map(id, self.variables))
            and other.num_draws == self.num_draws
            and [list(of) for of in other._parts] == [list(of) for of in self._parts]
        )
        if alike:
            for mine, others in zip(self._parts, other._parts, strict=True):
                for name, variable in mine.items():
                    variable.assign(others[name])
            self.note_others_of(other)
        return alike

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        arrays = {
            f"{name}_{i}": each.numpy()
            for i, parts in enumerate(self._parts)
            for name, each in parts.items()
        }
        return arrays, {}

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "BatchEnsemblePosterior":
        """See `SavedPosterior.from_state`."""
        del settings
        parts = [
            {
                name: arrays[f"{name}_{i}"]
                for name in (SHARED, ROWS, COLUMNS, OWN)
                if f"{name}_{i}" in arrays
            }
            for i in range(len(variables))
        ]
        return BatchEnsemblePosterior(model, parts, variables)


def _check_shapes(parts: list[dict[str, np.ndarray]], variables: list[keras.Variable]) -> int:
    """Return M; raise ValueError unless the parts describe members of these variables."""
    found = [{name: array.shape for name, array in of.items()} for of in parts]
    expected = [tuple(v.shape) for v in variables]
    sizes = {shape[:1] for of in found for name, shape in of.items() if name != SHARED}
    if (
        len(found) != len(expected)
        or len(sizes) != 1
        or sizes & {(), (0,)}
        or not all(map(_fits, found, expected))
    ):
        raise ValueError(
            f"Expected `parts` for variables of shapes {expected}: 'shared' (...) with 'rows' and "
            "'columns' (M, ...) that broadcast against it, or 'own' (M, ...), with the same M >= 1 "
            f"for all. Received: shapes {found}. Hint: BatchEnsemble(4).fit(...) creates them."
        )
    ((size,),) = sizes
    return size


def _fits(found: dict[str, tuple[int, ...]], shape: tuple[int, ...]) -> bool:
    if set(found) == {OWN}:
        return found[OWN][1:] == shape
    if set(found) != {SHARED, ROWS, COLUMNS} or found[SHARED] != shape:
        return False
    factors = (found[ROWS][1:], found[COLUMNS][1:])
    return all(
        len(factor) == len(shape) and all(n in (1, size) for n, size in zip(factor, shape))
        for factor in factors
    )
