"""Retraining of the compiled model between acquisitions, and its evaluation."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import without_tuning
from tfp_bayes._plumbing.checks import check_finite_rows, check_integers
from tfp_bayes._plumbing.configured import Configured
from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.fresh import (
    assign_values,
    constant_values,
    fresh_optimizer_values,
    fresh_values,
)
from tfp_bayes.active.built_in import REINIT
from tfp_bayes.inference import Method
from tfp_bayes.inference.refitted import Refitted
from tfp_bayes.metrics import accuracy
from tfp_bayes.prediction import Prediction
from tfp_bayes.prediction.targets import Targets
from tfp_bayes.uncertainty import apply_temperature, fit_temperature

Data = tuple[np.ndarray, np.ndarray]  # x and y

SHRINK, PERTURB = 0.5, 0.1
CHECK_EVERY = 25  # optimizer steps between evaluations on the validation set
PATIENCE = 4  # evaluations without improvement before training stops


class Refit(Configured):
    """Settings of the training in each round: its initial weights and its length.

    Args:
        reinit: Weights from which each training starts. "fresh" draws new initial weights, "warm"
            uses the current weights, and "shrink_perturb" uses half of the current weights plus a
            tenth of new initial weights (Ash and Adams 2020, arXiv:1910.08475). In round 0 the
            current weights are those of the model that was passed, for example pretrained ones. The
            optimizer state is always reset, and training noise follows from the seed.
        steps: Number of optimizer steps, or the minimum number if `max_steps` is given.
        max_steps: Maximum number of optimizer steps, or None. If given, training continues after
            `steps` until the validation loss stops improving, and the best weights are restored.
        batch_size: Number of examples in a batch, at most the number of training examples.
        posterior: A `tfp_bayes.inference.Method` to fit to the same examples after these steps in
            each round, or None. Scores and evaluation then use its posterior. Each round costs a
            complete fit of the method, and each prediction one pass per draw. Use steps=0 for a
            method that draws new initial weights itself, such as `DeepEnsemble`. The seed of the
            method follows from the learner's. The learner's checkpoint contains the posterior, so
            the method needs no `directory`.
        fit_arguments: Further arguments of the method's `fit`, such as {"epochs": 20}.

    Raises:
        ValueError: If an argument is out of range, or `posterior` is not such a method.

    Example:

    >>> from tfp_bayes.active import Refit
    >>> Refit("warm", steps=100)
    Refit(reinit='warm', steps=100, max_steps=None, batch_size=64)
    """

    def __init__(
        self,
        reinit: str = "fresh",
        steps: int = 200,
        max_steps: int | None = None,
        batch_size: int = 64,
        posterior: Method | None = None,
        fit_arguments: dict[str, Any] | None = None,
    ):
        if reinit not in REINIT:
            raise ValueError(
                f"Expected one of {REINIT} for `reinit`. Received: reinit={reinit!r}. "
                "Hint: 'fresh' forgets earlier rounds, as in Gal et al. 2017."
            )
        check_integers(1 if posterior is None else 0, steps=steps)
        check_integers(1, batch_size=batch_size)
        _check_method(posterior, fit_arguments)
        if max_steps is not None:
            check_integers(steps, max_steps=max_steps)
        self.reinit = reinit
        self.steps = steps
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.posterior = posterior
        self.fit_arguments = dict(fit_arguments or {})

    def bind(self, predictor: Any, validation_data: Data | None = None) -> "Trainer":
        """Return a `Trainer` that trains a compiled model with these settings.

        Args:
            predictor: Return value of `make_predictor`.
            validation_data: Pair (x, y) for early stopping, in the form that `fit` takes, or None.

        Raises:
            ValueError: If the model is not compiled, or `max_steps` is set without validation
                data.
        """
        if self.max_steps is not None and validation_data is None:
            raise ValueError(
                f"Expected `validation_data` with max_steps={self.max_steps}. "
                "Received: validation_data=None. Hint: early stopping uses the validation loss."
            )
        return Trainer(predictor, self, validation_data)

    def make_predictor(self, model: keras.Model) -> Any:
        """Return the object that predicts: the model, or a `Refitted` that wraps it."""
        if self.posterior is None:
            return model
        return Refitted(model, self.posterior, self.fit_arguments)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, without those of a posterior if there is none."""
        config = {
            "reinit": self.reinit,
            "steps": self.steps,
            "max_steps": self.max_steps,
            "batch_size": self.batch_size,
        }
        if self.posterior is not None:
            config |= {"posterior": self.posterior, "fit_arguments": self.fit_arguments}
        return config

    def identify(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share, as plain JSON."""
        config = self.get_config()
        method = config.pop("posterior", None)
        if method is not None:
            config["fit_arguments"] = digest(self.fit_arguments)
            config["posterior"] = {"name": type(method).__name__, **method.get_config()}
        return config


def _check_method(method: Any, fit_arguments: Any) -> None:
    """Raise ValueError unless `method` is None or can be fitted in each round."""
    if method is None:
        if fit_arguments:
            raise ValueError(
                "Expected `posterior` with `fit_arguments`, which are passed to its fit. "
                f"Received: fit_arguments={fit_arguments!r}, posterior=None. "
                "Hint: use steps and batch_size to set the model's own training."
            )
        return
    if not isinstance(method, Method):
        raise ValueError(
            "Expected a method with `fit` and `get_config` for `posterior`. "
            f"Received: posterior={method!r}. Hint: tfp_bayes.inference.DeepEnsemble(5)."
        )
    if method.get_config().get("directory") is not None:
        raise ValueError(
            "Expected a method without a `directory`, because each round fits a new posterior. "
            f"Received: posterior={method!r}. Hint: use checkpoint= of the learner."
        )


class Trainer:
    """Trainer that retrains a compiled model in place, so that nothing is traced twice.

    Args:
        predictor: A compiled `BayesianModel`, or a `Refitted` that wraps a compiled model.
        settings: Settings of each training.
        validation_data: Pair (x, y) in the form that `fit` takes, or None.

    Raises:
        ValueError: If the model is not compiled.
    """

    def __init__(self, predictor: Any, settings: Refit, validation_data: Data | None):
        model: keras.Model = predictor.model if isinstance(predictor, Refitted) else predictor
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"Expected a compiled `model`. Received: model={model!r}. "
                'Hint: model.compile("adam", "sparse_categorical_crossentropy").'
            )
        self.model = model
        self.predictor = predictor
        self.settings = settings
        self.validation_data = validation_data
        self._initial_optimizer = fresh_optimizer_values(model)
        # To rebuild a model takes longer than a closed-form head takes to learn.
        self._constant = constant_values(model) if self._takes_no_steps else None

    def __call__(self, x: np.ndarray, y: np.ndarray, seed: int) -> int:
        """Train on x (N, ...) and y (N, ...), and return the number of optimizer steps.

        The number does not include the steps of a posterior's method.
        """
        self._restart(seed)
        steps = self._take_steps(x, y, seed) if self.settings.steps else 0
        if isinstance(self.predictor, Refitted):
            self.predictor.fit(x, y, seed)
        return steps

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the weights, and the posterior over them if there is one."""
        state = {f"weight_{i}": v.numpy() for i, v in enumerate(self.model.variables)}
        if isinstance(self.predictor, Refitted):
            state |= self.predictor.get_state()
        return state

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a state from `get_state`."""
        for i, variable in enumerate(self.model.variables):
            variable.assign(state[f"weight_{i}"])
        if isinstance(self.predictor, Refitted):
            self.predictor.set_state(state)

    @property
    def _takes_no_steps(self) -> bool:
        """Whether the model is a closed-form head on features that are not trained."""
        return getattr(self.model, "has_fixed_features", False)

    def _take_steps(self, x: np.ndarray, y: np.ndarray, seed: int) -> int:
        settings = self.settings
        if self._takes_no_steps:
            self.model.fit(x, y)
            return 0
        batch_size = min(settings.batch_size, len(x))
        # Repeat without end, reshuffling at each pass: the budget counts steps, so it does not
        # matter whether the batch size divides the number of examples.
        data = tf.data.Dataset.from_tensor_slices((x, y))
        data = without_tuning(data.shuffle(len(x), seed=seed).repeat().batch(batch_size))
        arguments: dict[str, Any] = {}  # of `fit`
        epochs, steps_per_epoch = 1, settings.steps
        if settings.max_steps is not None:
            epochs, steps_per_epoch = -(-settings.max_steps // CHECK_EVERY), CHECK_EVERY
            early_stopping = keras.callbacks.EarlyStopping(
                monitor="val_loss",
                patience=PATIENCE,
                restore_best_weights=True,
                start_from_epoch=max(settings.steps // CHECK_EVERY - 1, 0),
            )
            arguments.update(validation_data=self.validation_data, callbacks=[early_stopping])
        parameters = inspect.signature(self.model.fit).parameters
        if hasattr(self.model, "num_train") or self.predictor is self.model:
            arguments.update(num_train=len(x))  # a plain Keras model with a posterior lacks it
        if "condition_on" in parameters:
            # A closed-form head is conditioned on each example once, but `data` is endless.
            arguments.update(condition_on=(x, y))
        history = self.model.fit(
            data,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            verbose=0,
            shuffle=False,  # `data` is shuffled already
            **arguments,
        )
        return len(history.epoch) * steps_per_epoch

    def _restart(self, seed: int) -> None:
        assign_values(self.model.optimizer.variables, self._initial_optimizer)
        fresh: Sequence[np.ndarray | None] | None = self._constant
        if fresh is None or not self._takes_no_steps:
            fresh = fresh_values(self.model, seed)
        trainable = {id(v) for v in self.model.trainable_variables}
        weights = {id(v) for v in self.model.weights}
        for variable, new in zip(self.model.variables, fresh, strict=True):
            if new is None or (self.settings.reinit == "warm" and id(variable) in weights):
                continue  # the states of training noise are no weights and always follow the seed
            if self.settings.reinit == "shrink_perturb" and id(variable) in trainable:
                new = SHRINK * variable.numpy() + PERTURB * new
            variable.assign(new)


class Evaluation:
    """Data on which a learner is evaluated in each round.

    Args:
        test_data: Pair (x, y) for `test_accuracy`, `test_rmse` and `test_nll` of `Round`, or None.
        validation_data: Pair (x, y) for `validation_accuracy` and `validation_nll`, early stopping
            and the calibration of a filter's probabilities, or None.
        num_samples: Number of posterior samples S. Fewer than for scores suffice, because these
            sets are larger than that of the candidates. None uses as many as for scores.

    Raises:
        ValueError: If `num_samples` is below 1.
    """

    def __init__(
        self,
        test_data: Data | None = None,
        validation_data: Data | None = None,
        num_samples: int | None = None,
    ):
        if num_samples is not None:
            check_integers(1, num_samples=num_samples)
        self.test_data = test_data
        self.validation_data = validation_data
        self.num_samples = num_samples

    def check(self, targets: Targets, num_samples: int | None) -> "Evaluation":
        """Return a copy with checked labels, and with `num_samples` filled in.

        Args:
            targets: Kind of labels that the model predicts.
            num_samples: Number of posterior samples to use if this object sets none.

        Raises:
            ValueError: If data are not a pair (x, y), or the labels do not suit the model.
        """
        return Evaluation(
            _checked(self.test_data, "test_data", targets),
            _checked(self.validation_data, "validation_data", targets),
            num_samples if self.num_samples is None else self.num_samples,
        )

    def measure(self, model: Any, seed: int) -> dict[str, Any]:
        """Evaluate a model, and return those attributes of `Round` for which there are data."""
        found: dict[str, float] = {}
        if self.test_data is not None:
            test = self._predict(model, self.test_data, seed).score(self.test_data[1])
            found.update(test_accuracy=test.accuracy, test_rmse=test.rmse, test_nll=test.nll)
        if self.validation_data is not None:
            prediction = self._predict(model, self.validation_data, seed)
            validation = prediction.score(self.validation_data[1])
            found.update(validation_accuracy=validation.accuracy, validation_nll=validation.nll)
        return found

    def for_fit(self, targets: Targets) -> Data | None:
        """Return the validation data in the form that `fit` takes, or None."""
        if self.validation_data is None:
            return None
        x, y = self.validation_data
        return x, targets.for_fit(y)

    def calibration(
        self, model: Any, num_samples: int | None, seed: int, least_accuracy: float
    ) -> Callable[[np.ndarray], np.ndarray] | None:
        """Return a function that calibrates class probabilities with a fitted temperature.

        Without validation data, the temperature is 1.

        Args:
            model: Model that predicts the probabilities.
            num_samples: Number of posterior samples S, the same as for scores. None uses the
                model's default.
            seed: Integer.
            least_accuracy: Required accuracy on the validation data.

        Returns:
            The function, or None if the model does not reach `least_accuracy`.
        """
        temperature = 1.0
        if self.validation_data is not None:
            x, y = self.validation_data
            mean = model.predict_uncertainty(x, num_samples=num_samples, seed=seed).mean
            if accuracy(y, mean) < least_accuracy:
                return None
            temperature = fit_temperature(y, mean)
        return lambda probabilities: apply_temperature(probabilities, temperature)

    def identify(self) -> dict[str, Any]:
        """Return what a resumed run must share, as plain JSON."""
        return {
            "test_data": digest(self.test_data),
            "validation_data": digest(self.validation_data),
            "evaluation_samples": self.num_samples,
        }

    def _predict(self, model: Any, data: Data, seed: int) -> Prediction:
        return model.predict_uncertainty(data[0], num_samples=self.num_samples, seed=seed)


def _checked(data: Data | None, name: str, targets: Targets) -> Data | None:
    """Return a pair (x, y) with checked inputs and labels, or None for None."""
    if data is None:
        return None
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    if not is_pair or np.ndim(data[0]) < 1 or len(data[0]) != len(np.atleast_1d(data[1])):
        if isinstance(data, tuple | list):
            elements = [getattr(each, "shape", None) for each in data[:3]]
            shapes = f"of length {len(data)}, with shapes {elements}"
        else:
            shapes = f"of shape {np.shape(data)}"
        raise ValueError(
            f"Expected a pair (x, y) with as many inputs as labels for `{name}`. Received: "
            f"{type(data).__name__} {shapes}. Hint: for example {name}=(x_test, y_test)."
        )
    x, y = data
    if isinstance(x, np.ndarray):
        check_finite_rows(x, np.arange(len(x)), name)
    return x, targets.check(y, len(x))
