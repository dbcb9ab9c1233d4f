"""Names that the examples in docstrings use without importing them."""

import pytest

_PUBLIC = (
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
    "Predictor",
    "StoredPosterior",
    "kl_divergence",
    "to_bayesian",
    "to_deterministic",
)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace, tmp_path):
    import keras  # only where tests run, not in the process that hands them out
    import numpy as np
    import tensorflow as tf

    import tfp_bayes

    doctest_namespace.update(np=np, keras=keras, tf=tf, tfp_bayes=tfp_bayes, tmp_path=tmp_path)
    for name in _PUBLIC:
        doctest_namespace[name] = getattr(tfp_bayes, name)
    doctest_namespace["NoisyOracle"] = tfp_bayes.active.NoisyOracle
    for name in tfp_bayes.layers.__all__:
        doctest_namespace[name] = getattr(tfp_bayes.layers, name)
