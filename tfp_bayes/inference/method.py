"""The contract of every method that fits a posterior over weights."""

from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from tfp_bayes.prediction.posterior import Posterior


@runtime_checkable
class Method(Protocol):
    """A way to fit a posterior over a model's weights, from settings alone.

    The same call serves every method, so that comparing two of them changes one line::

        method = DeepEnsemble(5, seed=0)  # or SWAG(seed=0), or another of this room
        posterior = method.fit(model, x_train, y_train, epochs=20)
        predictor = Predictor(model, posterior=posterior)

    A method holds no data and no weights: it is what its configuration says, and fits any number
    of models. Write one by subclassing nothing: `fit` and `get_config` make it. The configuration
    has a "seed" if anything is random, and a "directory" if a killed `fit` can be taken up again.
    """

    def fit(
        self, model: keras.Model, x: Any, y: np.ndarray | None = None, **fit_arguments: Any
    ) -> Posterior:
        """Fits the posterior of a model's weights to data.

        Args:
            model: Compiled. What its weights are afterwards, each method says.
            x: Arrays (N, ...) or a structure of them, or a dataset of pairs (x, y).
            y: Targets (N, ...) beside arrays.
            **fit_arguments: As of Keras' `fit`, such as `epochs`, `batch_size` and `verbose`.

        Returns:
            A posterior over variables of this very model, which `Predictor` samples. Those of this
            package are saved by `save` and loaded by `load_posterior`.
        """

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, plain JSON."""
