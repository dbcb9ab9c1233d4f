"""Bayesian deep learning for Keras 3: networks that know how sure they are."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING


def _runs_as_command() -> bool:
    """Return whether this process or its parent is `tfp-bayes` or `python -m tfp_bayes`."""
    program = Path(sys.argv[0])
    is_module = program.parts[-2:] == ("tfp_bayes", "__main__.py")
    return program.stem == "tfp-bayes" or is_module or sys.orig_argv[1:3] == ["-m", "tfp_bayes"]


if TYPE_CHECKING:
    from tfp_bayes import (
        active,
        datasets,
        evaluation,
        monitor,
        plots,
        robustness,
        scale,
        studies,
        uncertainty,
    )
    from tfp_bayes.active import ActiveLearner
    from tfp_bayes.evaluation import evaluate

# Keras finds the classes of a saved model only after their modules are imported. The command line
# skips these imports, so that `tfp-bayes --help` does not wait for TensorFlow.
if TYPE_CHECKING or not _runs_as_command():
    import tfp_bayes._plumbing.backend  # noqa: F401  # raises if Keras does not run on TensorFlow
    from tfp_bayes import (
        inference,
        layers,
        losses,
        metrics,
        models,
        networks,
        posteriors,
        prediction,
        priors,
    )
    from tfp_bayes.export import export_saved_model
    from tfp_bayes.inference import (
        Ensemble,
        Laplace,
        LastLayerLaplace,
        StoredPosterior,
        load_posterior,
    )
    from tfp_bayes.models import (
        BayesianModel,
        FeatureDensity,
        KLWeight,
        kl_divergence,
        set_kl_weight,
    )
    from tfp_bayes.models.as_prior import as_prior
    from tfp_bayes.models.to_bayesian import to_bayesian
    from tfp_bayes.models.to_deterministic import to_deterministic
    from tfp_bayes.models.to_sngp import to_sngp
    from tfp_bayes.networks import (
        BayesianBasisRegression,
        BayesianCNN,
        BayesianLeNet5,
        BayesianMLP,
        BayesianResNet20,
    )
    from tfp_bayes.prediction import Prediction, Predictor

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
    "FeatureDensity",
    "KLWeight",
    "Laplace",
    "LastLayerLaplace",
    "Prediction",
    "Predictor",
    "StoredPosterior",
    "active",
    "as_prior",
    "datasets",
    "evaluate",
    "evaluation",
    "export_saved_model",
    "inference",
    "kl_divergence",
    "layers",
    "load_posterior",
    "losses",
    "metrics",
    "models",
    "monitor",
    "networks",
    "plots",
    "posteriors",
    "prediction",
    "priors",
    "robustness",
    "scale",
    "set_kl_weight",
    "studies",
    "to_bayesian",
    "to_deterministic",
    "to_sngp",
    "uncertainty",
]

_DEFINED_IN = {
    "ActiveLearner": "active",
    "BayesianBasisRegression": "networks",
    "BayesianCNN": "networks",
    "BayesianLeNet5": "networks",
    "BayesianMLP": "networks",
    "BayesianModel": "models",
    "BayesianResNet20": "networks",
    "Ensemble": "inference",
    "FeatureDensity": "models",
    "KLWeight": "models",
    "Laplace": "inference",
    "LastLayerLaplace": "inference",
    "Prediction": "prediction",
    "Predictor": "prediction",
    "StoredPosterior": "inference",
    "as_prior": "models",
    "evaluate": "evaluation",
    "export_saved_model": "export",
    "kl_divergence": "models",
    "load_posterior": "inference",
    "set_kl_weight": "models",
    "to_bayesian": "models",
    "to_deterministic": "models",
    "to_sngp": "models",
}


def __getattr__(name: str):
    # Names that are not imported above are imported at first use.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_DEFINED_IN.get(name, name)}")
    return getattr(module, name) if name in _DEFINED_IN else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
