"""Tests of uncertainty after training on a few hundred rows, against the exact posterior."""

import keras
import numpy as np
import pytest

import tfp_bayes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 2)).astype("float32")
Y = (RNG.random(400) < 1 / (1 + np.exp(-X @ [1.5, -1.0]))).astype("float32")


def entropy(p):
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


def exact_mutual_information():
    """Return the value for logistic regression under N(0, 1), summed over a grid of weights."""
    grid = np.meshgrid(np.linspace(0, 3, 201), np.linspace(-2.5, 0.5, 201), indexing="ij")
    weights = np.stack(grid, -1).reshape(-1, 2)
    logits = X @ weights.T  # (N, grid points)
    log_joint = (Y[:, None] * logits - np.logaddexp(0, logits)).sum(0) - (weights**2).sum(1) / 2
    posterior = np.exp(log_joint - log_joint.max())
    posterior /= posterior.sum()
    p = (1 / (1 + np.exp(-logits))).clip(1e-12, 1 - 1e-12)
    return (entropy(p @ posterior) - entropy(p) @ posterior).mean()


@pytest.mark.parametrize("estimator", ["Flipout", "LocalReparameterization", "Reparameterization"])
def test_thirty_epochs_of_400_rows(estimator):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    layer = getattr(tfp_bayes.layers, f"Dense{estimator}")(1, activation="sigmoid", use_bias=False)
    model = tfp_bayes.BayesianModel(inputs, layer(inputs), likelihood="bernoulli")
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    model.fit(X, Y, batch_size=32, epochs=30, verbose=0)
    found = model.predict_uncertainty(X, 500, seed=0).mutual_information.mean()
    # If scales learn too slowly, the ratio is 0.01.
    assert 0.5 < found / exact_mutual_information() < 1.2
