"""A posterior that is a number of stored draws."""

import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.files import write_atomically
from tfp_bayes.inference.architecture import describe_architecture, find_difference

_FORMAT = "tfp_bayes.StoredPosterior 1"
_RECORD = "record"


class StoredPosterior:
    """S stored draws of a model's weights, each as probable as the others.

    The form of every posterior that was computed once: the members of an ensemble, the states of
    a Markov chain, snapshots. A `Predictor` takes every draw exactly once.

    Args:
        model: The built model whose weights they are.
        draws: One array (S, ...) for each of `variables`.
        variables: The variables of `model` that are drawn; None takes `model.weights`.

    Attributes:
        variables: As given.
        num_draws: S.

    Raises:
        ValueError: If number, shapes or dtypes do not match.

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
    ):
        self.model = model
        self.variables = list(model.weights if variables is None else variables)
        arrays = [np.asarray(draw) for draw in draws]
        shapes = [tuple(v.shape) for v in self.variables]
        found = [array.shape for array in arrays]
        lengths = {shape[:1] for shape in found}
        if [s[1:] for s in found] != shapes or len(lengths) != 1 or lengths & {(), (0,)}:
            raise ValueError(
                f"Expected arrays (S, ...) of draws with shapes {shapes} after the first axis, "
                f"S >= 1 the same for all, for `draws`. Received: shapes {found}. "
                "Hint: one array for each of `variables`, in their order."
            )
        self.num_draws = len(arrays[0])
        # Variables, not constants: an exported graph must not carry the weights inline.
        self._stacked = [
            tf.Variable(tf.cast(array, v.dtype), trainable=False)
            for array, v in zip(arrays, self.variables)
        ]

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns draw `index`, see `Posterior.draw`; `index` starts again after the last."""
        del seed
        return [stack[index % self.num_draws] for stack in self._stacked]

    def center(self) -> list[tf.Tensor]:
        """Returns the mean of the draws; of integers, which have none, the first."""
        return [
            tf.reduce_mean(stack, axis=0) if stack.dtype.is_floating else stack[0]
            for stack in self._stacked
        ]

    def save(self, path: str | Path) -> None:
        """Writes the draws to one .npz file, atomically, to be loaded beside the saved model.

        Args:
            path: The file.
        """
        position = {id(v): i for i, v in enumerate(self.model.weights)}
        record = {
            "format": _FORMAT,
            "architecture": describe_architecture(self.model),
            "positions": [position[id(v)] for v in self.variables],
            "dtypes": [stack.dtype.name for stack in self._stacked],
        }
        arrays: dict[str, Any] = {
            f"draws_{i}": _plain(stack.numpy()) for i, stack in enumerate(self._stacked)
        }
        arrays[_RECORD] = np.frombuffer(json.dumps(record).encode(), dtype="uint8")
        write_atomically(Path(path), lambda file: np.savez(file, **arrays))

    @staticmethod
    def load(path: str | Path, model: keras.Model) -> "StoredPosterior":
        """Reads what `save` wrote and binds it to a model of the same architecture.

        Args:
            path: The file.
            model: The model, such as from `keras.models.load_model`.

        Raises:
            ValueError: If the file is not such a posterior, or of another architecture.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            record = json.loads(arrays.pop(_RECORD).tobytes())
            if record["format"] != _FORMAT:
                raise ValueError(f"format {record['format']!r}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"Expected a stored posterior for `path`. Received: path={str(path)!r}, {error}. "
                "Hint: a file that StoredPosterior.save wrote."
            ) from error
        difference = find_difference(record["architecture"], describe_architecture(model))
        if difference is not None:
            raise ValueError(
                "Expected the model whose posterior was stored, or one of the same architecture, "
                f"for `model`. Received: model={model.name!r}, which differs in {difference}. "
                "Hint: load it from the .keras file saved beside."
            )
        draws = [_as(arrays[f"draws_{i}"], dtype) for i, dtype in enumerate(record["dtypes"])]
        weights = model.weights
        return StoredPosterior(model, draws, [weights[i] for i in record["positions"]])


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns an array that .npz can hold: NumPy's files do not know bfloat16."""
    return array.view("uint16") if array.dtype == ml_dtypes.bfloat16 else array


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array
