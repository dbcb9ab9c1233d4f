"""Training between acquisitions: the same compiled model, new weights, a budget of steps."""

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.active.built_in import REINIT

SHRINK, PERTURB = 0.5, 0.1
CHECK_EVERY = 25  # optimizer steps between looks at the validation set
PATIENCE = 4  # looks without improvement before training stops


class Refit:
    """Trains a compiled model again and again, in place, so that nothing is traced twice.

    Args:
        model: A compiled `BayesianModel`.
        reinit: Where each training starts: "fresh" new initial weights, "warm" the weights as
            they are, "shrink_perturb" half of them plus a tenth of new initial weights
            (Ash and Adams 2020, arXiv:1910.08475); the first time those are the weights that the
            model came with, such as pretrained ones. The optimizer always starts anew, and
            training noise follows the seed.
        steps: Optimizer steps, the least number if `max_steps` is given.
        max_steps: If given, training goes on after `steps` until the validation loss has stopped
            improving, at most so far, and the best weights are kept.
        batch_size: Examples a step, never more than there are.

    Raises:
        ValueError: If the model is not compiled or an argument is out of range.
    """

    def __init__(
        self,
        model: keras.Model,
        reinit: str = "fresh",
        steps: int = 200,
        max_steps: int | None = None,
        batch_size: int = 64,
    ):
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"Expected a compiled `model`. Received: model={model!r}. "
                'Hint: model.compile("adam", "sparse_categorical_crossentropy").'
            )
        if reinit not in REINIT:
            raise ValueError(
                f"Expected one of {REINIT} for `reinit`. Received: reinit={reinit!r}. "
                "Hint: 'fresh' forgets earlier rounds, as in Gal et al. 2017."
            )
        check_integers(1, steps=steps, batch_size=batch_size)
        if max_steps is not None:
            check_integers(steps, max_steps=max_steps)
        self.model = model
        self.reinit = reinit
        self.steps = steps
        self.max_steps = max_steps
        self.batch_size = batch_size
        model.optimizer.build(model.trainable_variables)
        unused = type(model.optimizer).from_config(model.optimizer.get_config())
        unused.build(model.trainable_variables)
        self._initial_optimizer = [v.numpy() for v in unused.variables]

    def __call__(
        self, x: np.ndarray, y: np.ndarray, validation_data: tuple | None, seed: int
    ) -> int:
        """Trains on x (N, ...), y (N, ...), and returns the number of optimizer steps taken."""
        self.check_validation(validation_data)
        self._restart(seed)
        batch_size = min(self.batch_size, len(x))
        # Endless and shuffled anew at each pass: the budget counts steps, so it does not matter
        # how batches divide the data.
        data = tf.data.Dataset.from_tensor_slices((x, y))
        data = data.shuffle(len(x), seed=seed).repeat().batch(batch_size)
        # Nothing to tune, and the tuner's thread may keep `fit` waiting for as long as it ran.
        options = tf.data.Options()
        options.autotune.enabled = False
        data = data.with_options(options)
        arguments: dict[str, Any] = {}  # of `fit`
        epochs, steps_per_epoch = 1, self.steps
        if self.max_steps is not None:
            epochs, steps_per_epoch = -(-self.max_steps // CHECK_EVERY), CHECK_EVERY
            early_stopping = keras.callbacks.EarlyStopping(
                monitor="val_loss",
                patience=PATIENCE,
                restore_best_weights=True,
                start_from_epoch=max(self.steps // CHECK_EVERY - 1, 0),
            )
            arguments.update(validation_data=validation_data, callbacks=[early_stopping])
        if hasattr(self.model, "condition"):  # a closed-form head, which learns at once
            arguments.update(condition_on=(x, y))
        history = self.model.fit(
            data,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            num_train=len(x),
            verbose=0,
            shuffle=False,  # what is shuffled already
            **arguments,
        )
        return len(history.epoch) * steps_per_epoch

    def check_validation(self, validation_data: tuple | None) -> None:
        """Raises ValueError unless there is what early stopping looks at."""
        if self.max_steps is not None and validation_data is None:
            raise ValueError(
                f"Expected `validation_data` with max_steps={self.max_steps}. "
                "Received: validation_data=None. Hint: early stopping looks at the validation "
                "loss."
            )

    def _restart(self, seed: int) -> None:
        for variable, value in zip(self.model.optimizer.variables, self._initial_optimizer):
            variable.assign(value)
        fresh = _new_model(self.model, seed)
        trainable = {id(v) for v in self.model.trainable_variables}
        weights = {id(v) for v in self.model.weights}
        for variable, new in zip(self.model.variables, fresh.variables, strict=True):
            if self.reinit == "warm" and id(variable) in weights:
                continue  # the states of training noise follow the seed all the same
            if self.reinit == "shrink_perturb" and id(variable) in trainable:
                new = SHRINK * variable.numpy() + PERTURB * new.numpy()
            variable.assign(new)


def initialize(model: keras.Model, seed: int) -> None:
    """Gives a model new initial weights, and new states of its training noise, in place."""
    for variable, new in zip(model.variables, _new_model(model, seed).variables, strict=True):
        variable.assign(new)


def _new_model(model: keras.Model, seed: int) -> keras.Model:
    """Builds the model anew, its weights and noise as `keras.utils.set_random_seed` would set."""
    # Keras draws the seeds of unseeded initializers and layers from Python's generator.
    state = random.getstate()
    random.seed(seed)
    try:
        return type(model).from_config(model.get_config())
    finally:
        random.setstate(state)
