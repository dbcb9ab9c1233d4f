"""A model whose predictions are those under a posterior that is fitted again as data come in."""

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
    """A model that predicts under the posterior which a method fits, round by round.

    Before the first fit it predicts with its weights as they are.

    Args:
        model: Compiled.
        method: A way to fit the posterior.
        fit_arguments: Arguments of its `fit`.
    """

    def __init__(self, model: keras.Model, method: Method, fit_arguments: dict[str, Any]):
        self.model = model
        self.method = method
        self.fit_arguments = {"verbose": 0, **fit_arguments}
        self.likelihood = getattr(model, "likelihood", "categorical")
        self._predictor = Predictor(model, self.likelihood)

    def fit(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        """Fits the posterior; the seed is the method's, if it has one."""
        config = self.method.get_config()
        method: Method = self.method
        if "seed" in config:
            method = type(method)(**{**config, "seed": seed})
        self._take(method.fit(self.model, x, y, **self.fit_arguments))

    @property
    def posterior(self) -> Posterior | None:
        """The posterior of the last round, to save or to export; None before the first fit."""
        return self._predictor.posterior

    @property
    def embed(self):
        """Features of the model as its weights are, where it has some."""
        return self.model.embed

    def predict_uncertainty(
        self, x: Any, num_samples: int | None = None, seed: Any = None, **kwargs: Any
    ) -> Prediction:
        """Predicts as `Predictor.predict_uncertainty`; None takes the model's own S, or each draw.

        Before the first fit a model that is not random gives one sample.
        """
        posterior = self.posterior
        if not self._predictor.is_random:
            num_samples = 1
        elif num_samples is None and (posterior is None or posterior.num_draws is None):
            num_samples = getattr(self.model, "num_samples", None)
        return self._predictor.predict_uncertainty(x, num_samples, seed, **kwargs)

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns the posterior as the bytes of its file, empty before the first fit."""
        posterior: Any = self.posterior
        if posterior is None:
            return {}
        if not hasattr(posterior, "save"):
            raise ValueError(
                "Expected a method whose posterior can be saved, to keep a checkpoint. Received: "
                f"posterior={self.method!r}, which fits a {type(posterior).__name__}. "
                "Hint: those of tfp_bayes.inference can; or leave out `checkpoint`."
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "posterior.npz")
            posterior.save(path)
            return {_FILE: np.frombuffer(path.read_bytes(), dtype="uint8")}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes what `get_state` gave; the model has the weights that it had then."""
        if _FILE not in state:
            self._predictor = Predictor(self.model, self.likelihood)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "posterior.npz")
            path.write_bytes(state[_FILE].tobytes())
            self._take(load_posterior(path, self.model))

    def _take(self, posterior: Posterior) -> None:
        """Predicts under a posterior from now on, in the graph of the last one if that can be."""
        assign = getattr(self.posterior, "assign", None)
        if assign is None or not assign(posterior):
            self._predictor = Predictor(self.model, self.likelihood, posterior)
