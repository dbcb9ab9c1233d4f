"""The interface of every method that fits a posterior over weights."""

from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from tfp_bayes.prediction.posterior import Posterior


@runtime_checkable
class Method(Protocol):
    """A way to fit a posterior over a model's weights, defined by its settings alone.

    Every method is called in the same way, so switching to another one changes a single line::

        method = DeepEnsemble(5, seed=0)  # or SWAG(seed=0), or another method of this module
        posterior = method.fit(model, x_train, y_train, epochs=20)
        predictor = Predictor(model, posterior=posterior)

    A method holds settings, but no data and no weights, so it can fit any number of models. To
    write your own, implement `fit` and `get_config`; no base class is needed. Include "seed" in
    the configuration if the method is random, and "directory" if a killed `fit` can be resumed.
    """

    def fit(
        self, model: keras.Model, x: Any, y: np.ndarray | None = None, **fit_arguments: Any
    ) -> Posterior:
        """Fit the posterior of a model's weights to data.

        Args:
            model: Compiled Keras model. Each method documents which weights it leaves in the model.
            x: Arrays (N, ...), a structure of arrays, or a dataset of pairs (x, y).
            y: Targets (N, ...), if `x` holds arrays.
            **fit_arguments: Arguments of Keras' `fit`, such as `epochs`, `batch_size` and
                `verbose`.

        Returns:
            A posterior over variables of `model` itself, to be sampled by a `Predictor`. Posteriors
            of this package have a method `save`, and `load_posterior` reads the file.
        """

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain JSON."""
