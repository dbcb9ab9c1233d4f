"""Files of weight posteriors, with their arrays and a record of the model's architecture."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from tfp_bayes._plumbing.digest import checksum, digest
from tfp_bayes._plumbing.files import write_atomically
from tfp_bayes.inference.architecture import describe_architecture, find_difference

_FORMAT = "tfp_bayes.posterior 2"
_FORMAT_1 = "tfp_bayes.StoredPosterior 1"
_RECORD = "record"
_KINDS: dict[str, type["SavedPosterior"]] = {}


class SavedPosterior:
    """Base class of posteriors that can be saved to a file.

    A subclass registers itself with the decorator `saved_as`, and implements `get_state` and
    `from_state`, which convert it to arrays and settings and back.

    Attributes:
        model: The model that the posterior is bound to.
        variables: The model's variables that a draw replaces, see `Posterior`.
    """

    model: keras.Model
    variables: list[keras.Variable]
    _others: list[keras.Variable]
    _checksum = 0

    def note_others(self) -> None:
        """Note the weights of the model that draws do not replace. Constructors call it."""
        replaced = {id(v) for v in self.variables}
        # The weight of a prior in training is no part of the function that the model computes.
        self._others = [
            v for v in self.model.weights if id(v) not in replaced and v.name != "kl_weight"
        ]
        self._checksum = checksum(v.numpy() for v in self._others)

    def note_others_of(self, other: "SavedPosterior") -> None:
        """Note what another posterior of the model noted. Implementations of `assign` call it."""
        self._others, self._checksum = other._others, other._checksum

    def check_others(self) -> None:
        """Raise ValueError if weights that draws do not replace have changed since the fit.

        Draws would then be combined with weights that they were not fitted with.
        """
        if checksum(v.numpy() for v in self._others) != self._checksum:
            raise ValueError(
                "Expected a `model` with the weights that the posterior was fitted with. Received: "
                f"model={self.model.name!r}, in which weights that the posterior does not include "
                "have changed since. Hint: fit each posterior to a model of its own, "
                "keras.models.clone_model(model), or fit this one again after training."
            )

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return a dict of arrays, and the settings as plain JSON."""
        raise NotImplementedError

    @classmethod
    def from_state(
        cls,
        model: keras.Model,
        variables: list[keras.Variable],
        arrays: dict[str, np.ndarray],
        settings: dict[str, Any],
    ) -> "SavedPosterior":
        """Build the posterior from the result of `get_state`, bound to a model."""
        raise NotImplementedError

    def assign(self, other: Any) -> bool:
        """Copy the values of another posterior, if graphs traced with this one stay valid.

        Posteriors whose draws depend only on `tf.Variable`s override this method. A learner that
        fits a posterior in each round can then trace its predictions once.

        Returns:
            Whether the values were copied. If not, nothing is changed.
        """
        del other
        return False

    def save(self, path: str | Path) -> None:
        """Write the posterior to a single .npz file, atomically.

        The file does not contain the model. Save the model too, and bind the posterior to it with
        `load_posterior`.

        Args:
            path: Path of the file.

        Raises:
            ValueError: If weights that the posterior does not include have changed since the fit.
        """
        self.check_others()
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
    """Register a class of posteriors under its name, for `load_posterior`."""
    _KINDS[cls.__name__] = cls
    return cls


def load_posterior(path: str | Path, model: keras.Model) -> Any:
    """Load a posterior written by its method `save`, and bind it to a model.

    Args:
        path: Path of the file.
        model: A model of the same architecture, for example from `keras.models.load_model`.

    Returns:
        The posterior, of the class that was saved. An `Ensemble` becomes a `StoredPosterior`.

    Raises:
        ValueError: If the file does not hold a posterior, the architecture differs, or the weights
            that the posterior does not include have changed.

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
            "Expected the model whose posterior was saved, or one of the same architecture, "
            f"for `model`. Received: model={model.name!r}, which differs in {difference}. "
            "Hint: load the model that was saved together with the posterior."
        )
    positions = record["positions"]
    if record["others"] not in (None, _digest_others(model, positions)):
        raise ValueError(
            "Expected a model with the weights that the posterior was fitted with. Received: "
            f"model={model.name!r}, in which weights that the posterior does not include differ. "
            "Hint: load the model that was saved together with the posterior, and do not train it "
            "further."
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
            f"Expected the file of a posterior for `path`. Received: path={str(path)!r}, {error}. "
            "Hint: pass a file written by a posterior's method `save`."
        ) from error
    return record, arrays


def _digest_others(model: keras.Model, positions: list[int]) -> str:
    """Return a digest of the weights that the posterior does not include."""
    replaced = set(positions)
    return digest([w.numpy() for i, w in enumerate(model.weights) if i not in replaced])


def _plain(array: np.ndarray) -> np.ndarray:
    """Convert bfloat16, which NumPy's files do not support, to uint16 with the same bits."""
    return array.view("uint16") if array.dtype == ml_dtypes.bfloat16 else array


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array
