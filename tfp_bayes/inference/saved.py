"""Weight posteriors as files: their arrays, and a record that binds them to an architecture."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_atomically
from tfp_bayes.inference.architecture import describe_architecture, find_difference

_FORMAT = "tfp_bayes.posterior 2"
_FORMAT_1 = "tfp_bayes.StoredPosterior 1"
_RECORD = "record"
_KINDS: dict[str, type["SavedPosterior"]] = {}


class SavedPosterior:
    """A posterior with a file: what subclasses share.

    A subclass is registered by `saved_as` and says by `get_state` what it consists of, and by
    `from_state` how it is made of that.

    Attributes:
        model: The model that it is bound to.
        variables: Those of the model that a draw replaces, see `Posterior`.
    """

    model: keras.Model
    variables: list[keras.Variable]

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the arrays by name, and settings in plain JSON."""
        raise NotImplementedError

    @classmethod
    def from_state(
        cls,
        model: keras.Model,
        variables: list[keras.Variable],
        arrays: dict[str, np.ndarray],
        settings: dict[str, Any],
    ) -> "SavedPosterior":
        """Returns the posterior that `get_state` described, bound to a model."""
        raise NotImplementedError

    def assign(self, other: Any) -> bool:
        """Takes over the values of another posterior, where graphs of this one may stay.

        A posterior whose draws depend on nothing but `tf.Variable`s overrides this, so that a
        learner which fits one in each round traces its predictions once.

        Returns:
            Whether it did; nothing is changed otherwise.
        """
        del other
        return False

    def save(self, path: str | Path) -> None:
        """Writes the posterior to one .npz file, atomically, to be loaded beside the saved model.

        Args:
            path: The file.
        """
        arrays, settings = self.get_state()
        position = {id(v): i for i, v in enumerate(self.model.weights)}
        positions = [position[id(v)] for v in self.variables]
        record = {
            "format": _FORMAT,
            "kind": next(c.__name__ for c in type(self).__mro__ if c.__name__ in _KINDS),
            "architecture": describe_architecture(self.model),
            "positions": positions,
            "others": _digest_others(self.model, positions),
            "dtypes": {name: array.dtype.name for name, array in arrays.items()},
            "settings": settings,
        }
        content: dict[str, Any] = {name: _plain(array) for name, array in arrays.items()}
        content[_RECORD] = np.frombuffer(json.dumps(record).encode(), dtype="uint8")
        write_atomically(Path(path), lambda file: np.savez(file, **content))


def saved_as(cls: type[SavedPosterior]) -> type[SavedPosterior]:
    """Registers a class of posteriors, so that `load_posterior` knows it by its name."""
    _KINDS[cls.__name__] = cls
    return cls


def load_posterior(path: str | Path, model: keras.Model) -> Any:
    """Reads a posterior that its `save` wrote, and binds it to a model of the same architecture.

    Args:
        path: The file.
        model: The model, such as from `keras.models.load_model`.

    Returns:
        The posterior, of the class that was saved; an `Ensemble` is a `StoredPosterior`.

    Raises:
        ValueError: If the file is not such a posterior, of another architecture, or the weights
            that it leaves as they are have changed.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")])
    >>> posterior = StoredPosterior(model, [np.zeros((20, 2, 1)), np.zeros((20, 1))])
    >>> posterior.save(tmp_path / "posterior.npz")
    >>> load_posterior(tmp_path / "posterior.npz", model).num_draws
    20
    """
    record, arrays = _read(Path(path))
    difference = find_difference(record["architecture"], describe_architecture(model))
    if difference is not None:
        raise ValueError(
            "Expected the model whose posterior was stored, or one of the same architecture, "
            f"for `model`. Received: model={model.name!r}, which differs in {difference}. "
            "Hint: load it from the .keras file saved beside."
        )
    positions = record["positions"]
    if record["others"] not in (None, _digest_others(model, positions)):
        raise ValueError(
            "Expected the weights beside which the posterior was made. Received: "
            f"model={model.name!r}, whose weights outside the posterior are others. "
            "Hint: load the model from the .keras file saved beside, and do not train it further."
        )
    variables = [model.weights[i] for i in positions]
    return _KINDS[record["kind"]].from_state(model, variables, arrays, record["settings"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        record = json.loads(arrays.pop(_RECORD).tobytes())
        if record["format"] == _FORMAT_1:
            dtypes = {f"draws_{i}": dtype for i, dtype in enumerate(record["dtypes"])}
            record |= {"kind": "StoredPosterior", "dtypes": dtypes, "settings": {}, "others": None}
        elif record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']!r}")
        elif record["kind"] not in _KINDS:
            raise ValueError(f"posterior of unknown kind {record['kind']!r}")
        arrays = {name: _as(arrays[name], dtype) for name, dtype in record["dtypes"].items()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"Expected a stored posterior for `path`. Received: path={str(path)!r}, {error}. "
            "Hint: a file that the `save` of a posterior wrote."
        ) from error
    return record, arrays


def _digest_others(model: keras.Model, positions: list[int]) -> str:
    """Returns a digest of the weights that the posterior leaves as they are."""
    replaced = set(positions)
    return digest([w.numpy() for i, w in enumerate(model.weights) if i not in replaced])


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns an array that .npz can hold: NumPy's files do not know bfloat16."""
    return array.view("uint16") if array.dtype == ml_dtypes.bfloat16 else array


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array
