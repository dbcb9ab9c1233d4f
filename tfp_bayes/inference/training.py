"""Training that a killed process takes up again, to the same bits, at the last whole epoch."""

import math
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing import checkpoint
from tfp_bayes._plumbing.batches import count_rows, without_tuning
from tfp_bayes._plumbing.digest import digest, digest_network
from tfp_bayes._plumbing.fresh import build_optimizer
from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes._plumbing.seeds import as_seed, fold_in


class Recorder(Protocol):
    """A Keras callback that gathers something over the epochs and can put it into a checkpoint."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns what was gathered so far."""

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from what `get_state` returned."""


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
    """Trains a compiled model from the weights that it has, by one call of its `fit`.

    The order of the examples follows from the seed and the number of the epoch alone, so that
    training is the same with and without a checkpoint, and with and without an interruption.
    Callbacks with a memory of their own, such as `EarlyStopping`, start it anew in a resumed run.

    Args:
        model: Compiled.
        x: Arrays (N, ...) or a structure of them; a dataset is read in the order that it has.
        y: Targets beside arrays.
        epochs: Epochs in all, those before an interruption included.
        seed: Integer.
        batch_size: Rows of a step, for arrays.
        recorder: A callback that is a `Recorder`, called before the others, or None.
        path: File of the checkpoint, written after each epoch, or None.
        settings: What else decides the result, plain JSON: a run with others is refused.
        callbacks: Callbacks, as `fit` takes them.
        sample_weight: Weights beside arrays, as `fit` takes them.
        **fit_arguments: Others of `fit`, such as `verbose` and `validation_data`.

    Raises:
        ValueError: If the model is not compiled, or the checkpoint is of another run.
    """
    check_compiled(model)
    if "validation_split" in fit_arguments:
        raise ValueError(
            "Expected `validation_data`. Received: validation_split="
            f"{fit_arguments['validation_split']!r}. Hint: split the arrays yourself."
        )
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
        if not isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
            arrays = tuple(each for each in (x, y, sample_weight) if each is not None)
            if hasattr(model, "num_train"):
                fit_arguments.setdefault("num_train", count_rows(x))
            fit_arguments["steps_per_epoch"] = math.ceil(count_rows(x) / batch_size)
            fit_arguments["shuffle"] = False  # what is shuffled already
            x = _shuffled(arrays, seed, range(first, epochs), batch_size)
        model.fit(x, initial_epoch=first, epochs=epochs, callbacks=called, **fit_arguments)


def check_compiled(model: keras.Model) -> None:
    """Raises ValueError unless a model is compiled and built."""
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"Expected a compiled `model`. Received: model={model.name!r}, not compiled. "
            'Hint: model.compile("adam", "sparse_categorical_crossentropy").'
        )
    if not model.built:
        raise ValueError(
            f"Expected a built `model`. Received: model={model.name!r}, whose weights are made by "
            "its first call. Hint: begin it with keras.Input, or call it on a batch."
        )


def _shuffled(arrays: tuple, seed: int, epochs: range, batch_size: int) -> tf.data.Dataset:
    """Returns the batches of some epochs, one after another."""
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
    """Saves, after each epoch, all that decides how training goes on."""

    def __init__(self, path: Path, identity: dict, recorder: Recorder | None):
        super().__init__()
        self._path = path
        self._identity = identity
        self._recorder = recorder
        self._lock = lock_of(path)

    def restore(self, model: keras.Model) -> int:
        """Puts back what was saved, and returns the number of the epochs that are done."""
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
        """Saves; the callbacks before this one have done their work."""
        arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(_variables(self.model))}
        if self._recorder is not None:
            state = self._recorder.get_state()
            arrays.update({f"recorder_{name}": value for name, value in state.items()})
        record = {"identity": self._identity, "epochs": epoch + 1}
        checkpoint.save(self._path, checkpoint.State(arrays, record))


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
