"""Bayesian deep learning for Keras 3: networks that know how sure they are."""

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfp_bayes import (
        active,
        datasets,
        layers,
        losses,
        metrics,
        models,
        posteriors,
        priors,
        runs,
        uncertainty,
    )
    from tfp_bayes.active import ActiveLearner
    from tfp_bayes.export import export_saved_model
    from tfp_bayes.inference import Ensemble, LastLayerLaplace, Prediction, Predictor
    from tfp_bayes.models import (
        BayesianBasisRegression,
        BayesianCNN,
        BayesianLeNet5,
        BayesianMLP,
        BayesianModel,
        BayesianResNet20,
        KLWeight,
        kl_divergence,
        set_kl_weight,
        to_bayesian,
        to_deterministic,
    )

__version__ = "0.1.0"

__all__ = [
    "ActiveLearner",
    "BayesianBasisRegression",
    "BayesianCNN",
    "BayesianLeNet5",
    "BayesianMLP",
    "BayesianModel",
    "BayesianResNet20",
    "Ensemble",
    "KLWeight",
    "LastLayerLaplace",
    "Prediction",
    "Predictor",
    "active",
    "datasets",
    "export_saved_model",
    "kl_divergence",
    "layers",
    "losses",
    "metrics",
    "models",
    "posteriors",
    "priors",
    "runs",
    "set_kl_weight",
    "to_bayesian",
    "to_deterministic",
    "uncertainty",
]

_DEFINED_IN = {
    "ActiveLearner": "active",
    "BayesianBasisRegression": "models",
    "BayesianCNN": "models",
    "BayesianLeNet5": "models",
    "BayesianMLP": "models",
    "BayesianModel": "models",
    "BayesianResNet20": "models",
    "Ensemble": "inference",
    "KLWeight": "models",
    "LastLayerLaplace": "inference",
    "Prediction": "inference",
    "Predictor": "inference",
    "export_saved_model": "export",
    "kl_divergence": "models",
    "set_kl_weight": "models",
    "to_bayesian": "models",
    "to_deterministic": "models",
}


def __getattr__(name: str):
    # Loaded at first use: TensorFlow takes seconds to import, and `tfp-bayes --help` none.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_DEFINED_IN.get(name, name)}")
    return getattr(module, name) if name in _DEFINED_IN else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
    from tfp_bayes import backend  # noqa: F401  # says so now if it is not TensorFlow
