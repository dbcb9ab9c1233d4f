"""A model that predicts with a posterior, which is refitted whenever there are new data."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfp_bayes.inference.method import Method
from tfp_bayes.inference.saved import load_posterior
from tfp_bayes.prediction import Posterior, Prediction, Predictor

_FILE = "posterior"


class Refitted:
    """A model together with a method that fits its posterior anew in each round.

    Predictions use the latest posterior, or the model's own weights before the first fit.

    Args:
        model: Compiled Keras model.
        method: The method that fits the posterior.
        fit_arguments: Arguments for the method's `fit`.
    """

    def __init__(self, model: keras.Model, method: Method, fit_arguments: dict[str, Any]):
        self.model = model
        self.method = method
        self.fit_arguments = {"verbose": 0, **fit_arguments}
        self.likelihood = getattr(model, "likelihood", "categorical")
        self._predictor = Predictor(model, self.likelihood)

    def fit(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        """Fit the posterior, with `seed` in place of the method's seed if it has one."""
        config = self.method.get_config()
        method: Method = self.method
        if "seed" in config:
            method = type(method)(**{**config, "seed": seed})
        self._take(method.fit(self.model, x, y, **self.fit_arguments))

    @property
    def posterior(self) -> Posterior | None:
        """The posterior of the latest round, to save or export; None before the first fit."""
        return self._predictor.posterior

    @property
    def embed(self):
        """The model's method `embed`, which computes features with its current weights."""
        return self.model.embed

    def predict_uncertainty(
        self, x: Any, num_samples: int | None = None, seed: Any = None, **kwargs: Any
    ) -> Prediction:
        """Predict like `Predictor.predict_uncertainty`.

        With num_samples=None, a finite posterior gives each of its draws once; otherwise the
        model's own default applies. Before the first fit, a deterministic model gives one sample.
        """
        posterior = self.posterior
        if not self._predictor.is_random:
            num_samples = 1
        elif num_samples is None and (posterior is None or posterior.num_draws is None):
            num_samples = getattr(self.model, "num_samples", None)
        return self._predictor.predict_uncertainty(x, num_samples, seed, **kwargs)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the bytes of the posterior's file; an empty dict before the first fit."""
        posterior: Any = self.posterior
        if posterior is None:
            return {}
        if not hasattr(posterior, "save"):
            raise ValueError(
                "Expected a method whose posterior can be saved, for the checkpoint. Received: "
                f"posterior={self.method!r}, which fits a {type(posterior).__name__} without a "
                "`save`. Hint: use a method of tfp_bayes.inference, or leave out `checkpoint`."
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "posterior.npz")
            posterior.save(path)
            return {_FILE: np.frombuffer(path.read_bytes(), dtype="uint8")}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the posterior from `get_state`; the model must have the weights it had then."""
        if _FILE not in state:
            self._predictor = Predictor(self.model, self.likelihood)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "posterior.npz")
            path.write_bytes(state[_FILE].tobytes())
            self._take(load_posterior(path, self.model))

    def _take(self, posterior: Posterior) -> None:
        """Predict with a posterior from now on, and reuse the traced graph where possible."""
        assign = getattr(self.posterior, "assign", None)
        if assign is None or not assign(posterior):
            self._predictor = Predictor(self.model, self.likelihood, posterior)
