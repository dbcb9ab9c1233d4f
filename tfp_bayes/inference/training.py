"""Training that resumes after a kill, from the last complete epoch, with bit-identical results."""

import inspect
import math
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing import checkpoint
from tfp_bayes._plumbing.batches import (
    check_alone,
    check_finite_arrays,
    check_has_end,
    count_rows,
    without_tuning,
)
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.digest import digest, digest_network
from tfp_bayes._plumbing.fresh import build_optimizer
from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.prediction.adapted import update_constants

# Parameters of `fit` that are not accepted as arguments, because training sets them itself.
_NOT_FOR_USERS = {"self", "x", "y", "args", "kwargs", "initial_epoch", "validation_split"}


class Recorder(Protocol):
    """A Keras callback that records data over the epochs and can save them in a checkpoint."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the data recorded so far."""

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore the data that `get_state` returned."""


def train(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    epochs: int,
    seed: int = 0,
    batch_size: int = 32,
    recorder: Any = None,
    path: Path | None = None,
    settings: Any = None,
    callbacks: Any = (),
    sample_weight: Any = None,
    **fit_arguments: Any,
) -> None:
    """Train a compiled model, starting from its current weights, with one call of its `fit`.

    The order of the examples depends only on the seed and the number of the epoch, so training
    gives the same result with or without a checkpoint, and with or without an interruption.
    Callbacks with internal state, such as `EarlyStopping`, lose that state when a run is resumed.

    Args:
        model: Compiled Keras model.
        x: Arrays (N, ...), a structure of them, or a dataset, whose order is left unchanged.
        y: Targets, if `x` holds arrays.
        epochs: Total number of epochs, including those before an interruption.
        seed: Integer.
        batch_size: Rows in a batch, if `x` holds arrays.
        recorder: A callback that is a `Recorder`, called before the other callbacks, or None.
        path: File for a checkpoint, written after each epoch, or None.
        settings: Other settings that determine the result, as plain JSON. A checkpoint with
            different settings is refused.
        callbacks: Callbacks, as for `fit`.
        sample_weight: Sample weights, if `x` holds arrays, as for `fit`.
        **fit_arguments: Further arguments of `fit`, such as `verbose` and `validation_data`.

    Raises:
        ValueError: If the model is not compiled, an argument of `fit` does not fit the data, an
            array of inputs holds NaN or infinity, targets are text, a sample weight is negative, or
            the checkpoint belongs to a different run.
    """
    check_compiled(model)
    check_integers(1, batch_size=batch_size)
    is_dataset = isinstance(x, tf.data.Dataset | keras.utils.PyDataset)
    _check_fit_arguments(model, is_dataset, fit_arguments)
    if is_dataset:
        check_alone(x, y, sample_weight)
        if fit_arguments.get("steps_per_epoch") is None:
            check_has_end(x)
    check_finite_arrays(x)
    _check_targets(y, sample_weight)
    update_constants(model)
    build_optimizer(model)
    given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks or []
    called = list(given) if recorder is None else [recorder, *given]
    first = 0
    if path is not None:
        identity = {
            "network": digest_network(model),
            "data": digest([x, y, sample_weight]),
            "seed": seed,
            "batch_size": batch_size,
            "settings": settings,
        }
        saver = _Saver(path, identity, recorder)
        first = saver.restore(model)
        called.append(saver)
    if first < epochs:
        if is_dataset:
            # By default, Keras shuffles the batches of a PyDataset with Python's global generator.
            fit_arguments.setdefault("shuffle", False)
        else:
            arrays = tuple(each for each in (x, y, sample_weight) if each is not None)
            if hasattr(model, "num_train"):
                fit_arguments.setdefault("num_train", count_rows(x))
            fit_arguments["steps_per_epoch"] = math.ceil(count_rows(x) / batch_size)
            _check_steps_per_execution(model, fit_arguments["steps_per_epoch"])
            fit_arguments["shuffle"] = False  # the data are already shuffled
            arrays = _without_lists(arrays)
            x = _shuffled(arrays, seed, range(first, epochs), batch_size)
        model.fit(x, initial_epoch=first, epochs=epochs, callbacks=called, **fit_arguments)


def check_compiled(model: keras.Model) -> None:
    """Raise ValueError unless a model is compiled and built."""
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"Expected a compiled `model`. Received: model={model.name!r}, not compiled. "
            'Hint: model.compile("adam", "sparse_categorical_crossentropy").'
        )
    if not model.built:
        raise ValueError(
            f"Expected a built `model`. Received: model={model.name!r}, which has no weights yet. "
            "Hint: start it with keras.Input, or call it once on a batch."
        )


def _check_fit_arguments(
    model: keras.Model, is_dataset: bool, fit_arguments: dict[str, Any]
) -> None:
    """Refuse arguments that `fit` lacks, or that have no effect or break the order of rows."""
    if "validation_split" in fit_arguments:
        raise ValueError(
            "Expected `validation_data`. Received: validation_split="
            f"{fit_arguments['validation_split']!r}. Hint: split the arrays yourself."
        )
    known = {
        name for fit in (keras.Model.fit, model.fit) for name in inspect.signature(fit).parameters
    }
    accepted = sorted(known - _NOT_FOR_USERS)
    for name in fit_arguments:
        if name not in accepted:
            raise ValueError(
                f"Expected arguments of Keras' `fit` among {', '.join(accepted)}. Received: "
                f"{name}={fit_arguments[name]!r}. Hint: training starts with the first epoch; a "
                "method with `directory` continues where it was interrupted."
            )
    steps, shuffle = (fit_arguments.get(name) for name in ("steps_per_epoch", "shuffle"))
    if not is_dataset and (steps is not None or shuffle not in (None, True)):
        raise ValueError(
            "Expected a dataset with `steps_per_epoch` or `shuffle`, because each epoch reads all "
            f"rows of arrays in random order. Received: arrays, steps_per_epoch={steps!r}, "
            f"shuffle={shuffle!r}. Hint: leave these arguments out."
        )


def _check_targets(y: Any, sample_weight: Any) -> None:
    """Refuse text as targets, and weights that would maximize the loss of an example."""
    for each in keras.tree.flatten(y):
        if each is not None and np.asarray(each).dtype.kind in "OSU":
            raise ValueError(
                f"Expected numbers for `y`. Received: text or objects, such as "
                f"{np.ravel(np.asarray(each))[:1].tolist()}. "
                "Hint: class_names, y = np.unique(y, return_inverse=True)."
            )
    for each in keras.tree.flatten(sample_weight):
        if each is not None and not (np.asarray(each) >= 0).all():  # NaN fails too
            raise ValueError(
                "Expected numbers of at least 0 for `sample_weight`. Received: smallest "
                f"{np.min(each)}. Hint: a weight of 0 leaves an example out."
            )


def _check_steps_per_execution(model: keras.Model, steps_per_epoch: int) -> None:
    """Refuse executions that would run over the end of an epoch into the rows of the next."""
    if model.steps_per_execution > 1 and steps_per_epoch % model.steps_per_execution:
        raise ValueError(
            f"Expected a model compiled with a `steps_per_execution` that divides the "
            f"{steps_per_epoch} batches of an epoch. Received: "
            f"steps_per_execution={model.steps_per_execution}. "
            "Hint: compile it without, or choose another batch_size."
        )


def _without_lists(arrays: Any) -> Any:
    """Replace lists of arrays by tuples, because `tf.data` makes one tensor of a list."""
    if isinstance(arrays, dict):
        return {name: _without_lists(each) for name, each in arrays.items()}
    return tuple(map(_without_lists, arrays)) if isinstance(arrays, list | tuple) else arrays


def _shuffled(arrays: tuple, seed: int, epochs: range, batch_size: int) -> tf.data.Dataset:
    """Return a dataset of the shuffled batches of several epochs, one epoch after another."""
    num_rows = count_rows(arrays)
    columns = keras.tree.map_structure(tf.convert_to_tensor, arrays)

    def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_rows), fold_in(as_seed(seed), epoch)
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    data = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(batches_of)
    data = data.map(
        lambda rows: keras.tree.map_structure(lambda column: tf.gather(column, rows), columns)
    )
    return without_tuning(data.prefetch(2))


class _Saver(keras.callbacks.Callback):
    """A callback that saves the complete state of training after each epoch."""

    def __init__(self, path: Path, identity: dict, recorder: Recorder | None):
        super().__init__()
        self._path = path
        self._identity = identity
        self._recorder = recorder
        self._lock = lock_of(path)

    def restore(self, model: keras.Model) -> int:
        """Restore the saved state, if any, and return the number of completed epochs."""
        self._lock.acquire()
        if not self._path.exists():
            return 0
        arrays, record = checkpoint.load(self._path)
        checkpoint.check_same_configuration(self._identity, record["identity"], self._path)
        for i, variable in enumerate(_variables(model)):
            variable.assign(arrays[f"variable_{i}"])
        if self._recorder is not None:
            names = [name for name in arrays if name.startswith("recorder_")]
            self._recorder.set_state({n.removeprefix("recorder_"): arrays[n] for n in names})
        return record["epochs"]

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Save the state. This callback comes last, so the others have already run."""
        arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(_variables(self.model))}
        if self._recorder is not None:
            state = self._recorder.get_state()
            arrays.update({f"recorder_{name}": value for name, value in state.items()})
        record = {"identity": self._identity, "epochs": epoch + 1}
        checkpoint.save(self._path, checkpoint.State(arrays, record))


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
