"""Variational continual learning with coresets and task-specific heads."""

import copy as copying
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing import checkpoint
from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.checks import check_finite_rows, check_integers
from tfp_bayes._plumbing.digest import digest, digest_network
from tfp_bayes._plumbing.fresh import assign_values, seeded
from tfp_bayes._plumbing.lock import Lock, lock_of
from tfp_bayes.inference.training import check_compiled, train
from tfp_bayes.layers import variational_layers
from tfp_bayes.models.as_prior import as_prior, copy_as_is, find_private, freeze_points
from tfp_bayes.models.bayesian_model import BayesianModel

_FILE = "continual.npz"


class ContinualLearner:
    """Learn tasks in sequence without their earlier data, each under the preceding posterior.

    Use it when data arrive in parts that cannot be stored, or when a network must learn a new task
    without forgetting the old ones. Each `fit` after the first trains a copy of the model made by
    `as_prior`, with a fresh optimizer. `task_model` returns the model for predictions on a task.
    With a coreset, some examples of each task are held out of training and stored. They only
    refine the model that `task_model` returns.

    Args:
        model: A compiled `BayesianModel` of variational layers; `as_prior` says which layers it
            may have. The first task trains this very model. If possible, start from a trained
            network: set the means to its weights, with a small `initial_scale`.
        private: Names of the layers that each task has for itself, such as "head".
        coreset_size: Number of examples of each task that are stored, drawn at random.
        coreset_epochs: Number of passes over the coreset that refine the model of a task. It may
            be changed at any time; 0 turns refinement off.
        seed: Integer from which all randomness follows.
        directory: Folder of the learner's file, which is written after every task and every epoch.
            If the folder already holds the file of this learner, its tasks count as learned. None
            writes nothing.

    Attributes:
        num_tasks: Number of tasks learned.
        divergences: KL(q || preceding posterior) of the shared layers in nats, one number per
            task; for the first task, KL(q || prior). Values near 0 indicate posteriors that have
            become too narrow to learn.

    Raises:
        ValueError: If the model is not of that kind, or the folder belongs to another learner.

    Reference:
        Nguyen et al. 2018, "Variational Continual Learning", algorithm 1, arXiv:1710.10628;
        Swaroop et al. 2019, arXiv:1905.02099.

    Example:

    >>> bias = {"bias_prior": "normal", "bias_posterior": "mean_field_normal"}
    >>> inputs = keras.Input((2,))
    >>> hidden = DenseLocalReparameterization(8, "relu", **bias)(inputs)
    >>> outputs = DenseLocalReparameterization(2, "softmax", name="head", **bias)(hidden)
    >>> model = BayesianModel(inputs, outputs)
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> learner = tfp_bayes.models.ContinualLearner(model, private="head")
    >>> x = np.random.default_rng(0).normal(size=(40, 2))
    >>> for task in range(2):
    ...     learner.fit(x, (x[:, task] > 0).astype(int), epochs=1, verbose=0)
    >>> learner.num_tasks, len(learner.divergences), learner.task_model(0).output_shape
    (2, 2, (None, 2))
    """

    def __init__(
        self,
        model: BayesianModel,
        private: str | Sequence[str] = (),
        *,
        coreset_size: int = 0,
        coreset_epochs: int = 100,
        seed: int = 0,
        directory: str | Path | None = None,
    ):
        check_integers(0, coreset_size=coreset_size, coreset_epochs=coreset_epochs)
        check_compiled(model)
        if not isinstance(model, BayesianModel):
            raise ValueError(
                f"Expected a BayesianModel for `model`. Received: {type(model).__name__}. "
                "Hint: tfp_bayes.BayesianModel(inputs, outputs) with variational layers."
            )
        self.private = (private,) if isinstance(private, str) else tuple(private)
        self.coreset_size = coreset_size
        self.coreset_epochs = coreset_epochs
        self.seed = seed
        self.divergences: list[float] = []
        self._model = model
        self._compile_config = copying.deepcopy(model.get_compile_config())
        self._private_values: list[list[np.ndarray]] = []
        self._coresets: list[list[np.ndarray]] = []
        as_prior(model, self.private)  # refuses unsuitable models before anything is trained
        self._identity = {
            "network": digest_network(model),
            "start": digest(_values(model)),
            "private": list(self.private),
            "coreset_size": coreset_size,
            "seed": seed,
        }
        self._folder = None if directory is None else Path(directory)
        if self._folder is not None:
            self._open(self._folder)

    @property
    def num_tasks(self) -> int:
        """Number of tasks learned."""
        return len(self.divergences)

    def fit(
        self,
        x: Any,
        y: np.ndarray,
        *,
        epochs: int,
        batch_size: int = 256,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        **fit_arguments: Any,
    ) -> None:
        """Learn the next task.

        Args:
            x: Inputs: an array (N, ...) or a structure of arrays.
            y: Targets (N, ...).
            epochs: Number of passes over the data outside of the coreset.
            batch_size: Number of examples per step.
            sample_weight: Sample weights (N,), as for Keras' `fit`. Only without coresets, whose
                examples have equal weights.
            class_weight: Weights of classes, as for Keras' `fit`. Only without coresets.
            **fit_arguments: Other arguments of Keras' `fit`, such as `verbose` and `callbacks`.

        Raises:
            ValueError: If there are no more examples than the coreset takes, the data are not
                arrays of equal length, an input or target is not finite, or there are weights and
                coresets. The task then does not count as learned.
        """
        self._check_weights(sample_weight=sample_weight, class_weight=class_weight)
        task = self.num_tasks
        x, y = _as_arrays(x, y)
        held_out, rest = self._split(count_rows(x), task)
        model = self._model if task == 0 else self._next_model(task)
        path = None if self._folder is None else _checkpoint_path(self._folder, task)
        train(
            model,
            _rows(x, rest),
            _rows(y, rest),
            epochs=epochs,
            batch_size=batch_size,
            seed=self._seed_of(task),
            path=path,
            settings=self._identity | {"task": task, "before": digest(_values(self._model))},
            sample_weight=sample_weight,
            class_weight=class_weight,
            **fit_arguments,
        )
        self._model = model
        self._private_values.append(_values_of(self._private_variables(model)))
        self._coresets.append([*keras.tree.flatten(_rows(x, held_out)), _rows(y, held_out)])
        shared = [each for each in variational_layers(model) if not self._is_private(model, each)]
        self.divergences.append(float(sum(each.kl_divergence() for each in shared)))
        if self._folder is not None and path is not None:
            self._save(self._folder)
            for used in (path, lock_of(path).path):
                used.unlink(missing_ok=True)

    def task_model(self, task: int | None = None) -> BayesianModel:
        """Return the compiled model for predictions on a task, as a copy that may be saved.

        If coresets are stored, the copy is refined under the posterior of all tasks: on the
        coreset of the task if there are private layers, otherwise on the coresets of all tasks.

        Args:
            task: Number of the task, counted from 0. None is the last task.

        Raises:
            ValueError: If that task was not learned.
        """
        task = self.num_tasks - 1 if task is None else task
        if not 0 <= task < self.num_tasks:
            raise ValueError(
                f"Expected one of the {self.num_tasks} learned tasks for `task`. Received: "
                f"task={task!r}. Hint: tasks are numbered from 0; `fit` learns the next one."
            )
        refines = self.coreset_size > 0 and self.coreset_epochs > 0
        with seeded(self._seed_of(task, 1)):
            model = copy_as_is(self._model)
            assign_values(self._private_variables(model), self._private_values[task])
            if refines:
                freeze_points(model)
                model = as_prior(model)
        model.compile_from_config(copying.deepcopy(self._compile_config))
        if refines:
            chosen = [self._coresets[task]] if self.private else self._coresets
            *inputs, y = (np.concatenate(column) for column in zip(*chosen))
            x = keras.tree.pack_sequence_as(model.input, inputs)
            train(
                model,
                x,
                y,
                epochs=self.coreset_epochs,
                batch_size=min(len(y), 256),
                seed=self._seed_of(task, 1),
                verbose=0,
            )
        return model

    def _next_model(self, task: int) -> BayesianModel:
        with seeded(self._seed_of(task)):
            model = as_prior(self._model, self.private)
        model.compile_from_config(copying.deepcopy(self._compile_config))
        return model

    def _check_weights(self, **weights: Any) -> None:
        given = [name for name, each in weights.items() if each is not None]
        if given and self.coreset_size:
            raise ValueError(
                f"Expected no {' or '.join(given)} with a coreset, whose examples have equal "
                f"weights. Received: {', '.join(given)}, coreset_size={self.coreset_size}. "
                "Hint: coreset_size=0, or leave out the weights."
            )

    def _split(self, num_rows: int, task: int) -> tuple[np.ndarray, np.ndarray]:
        if num_rows <= self.coreset_size:
            raise ValueError(
                f"Expected more examples than the coreset_size={self.coreset_size} that are held "
                f"out. Received: {num_rows}. Hint: a smaller coreset_size."
            )
        order = np.random.default_rng([self.seed, task]).permutation(num_rows)
        return np.sort(order[: self.coreset_size]), np.sort(order[self.coreset_size :])

    def _seed_of(self, *numbers: int) -> int:
        return int(np.random.SeedSequence([self.seed, *numbers]).generate_state(1)[0] >> 1)

    def _is_private(self, model: keras.Model, layer: keras.layers.Layer) -> bool:
        return id(layer) in find_private(model, self.private)

    def _private_variables(self, model: keras.Model) -> list[keras.Variable]:
        layers = find_private(model, self.private)
        return [v for layer in layers.values() for v in layer.weights]

    # The file.

    def _open(self, folder: Path) -> None:
        self._lock = Lock(folder / "continual.lock", folder)
        self._lock.acquire()
        path = folder / _FILE
        if not path.exists():
            return
        arrays, record = checkpoint.load(path)
        checkpoint.check_same_configuration(self._identity, record["identity"], path)
        self.divergences = record["divergences"]

        def group(name: str) -> list[np.ndarray]:
            return [arrays[f"{name}_{i}"] for i in range(record["sizes"][name])]

        for task in range(self.num_tasks):
            self._private_values.append(group(f"private_{task}"))
            self._coresets.append(group(f"coreset_{task}"))
            _checkpoint_path(folder, task).unlink(missing_ok=True)
        if self.num_tasks > 1:
            self._model = self._next_model(1)
        assign_values(self._model.variables, group("variable"))

    def _save(self, folder: Path) -> None:
        groups = {"variable": _values(self._model)}
        for task in range(self.num_tasks):
            groups[f"private_{task}"] = self._private_values[task]
            groups[f"coreset_{task}"] = self._coresets[task]
        arrays = {f"{name}_{i}": a for name, each in groups.items() for i, a in enumerate(each)}
        record = {
            "identity": self._identity,
            "divergences": self.divergences,
            "sizes": {name: len(each) for name, each in groups.items()},
        }
        checkpoint.save(folder / _FILE, checkpoint.State(arrays, record))


def _checkpoint_path(folder: Path, task: int) -> Path:
    return folder / f"task-{task}.epochs.npz"


def _as_arrays(x: Any, y: Any) -> tuple[Any, np.ndarray]:
    """Convert data to arrays, and check that they have equal lengths and finite values."""
    if y is None or isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
        raise ValueError(
            f"Expected arrays for `x` and `y`. Received: x of type {type(x).__name__}, y of type "
            f"{type(y).__name__}. Hint: read the dataset of a task into arrays."
        )
    x, y = keras.tree.map_structure(np.asarray, (x, y))
    indices = np.arange(count_rows((x, y)))
    for each in keras.tree.flatten((x, y)):
        check_finite_rows(each, indices)
    return x, y


def _rows(arrays: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda each: each[rows], arrays)


def _values(model: keras.Model) -> list[np.ndarray]:
    return _values_of(model.variables)


def _values_of(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [v.numpy() for v in variables]
