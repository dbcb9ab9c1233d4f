"""Tests of normal targets: output layer, loss, metric and the variance split of the predictor."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tfp_bayes
from tfp_bayes import Predictor
from tfp_bayes.layers import BayesianLinear, MCDropout, NormalParameters
from tfp_bayes.losses import NormalNLL
from tfp_bayes.metrics import RootMeanSquaredError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")


def network(**arguments):
    """Return a Bayesian model with dropout for the regression of two targets."""
    inputs = keras.Input((3,))
    hidden = MCDropout(0.5, seed=1)(keras.layers.Dense(16, activation="relu")(inputs))
    parameters = NormalParameters(**arguments)
    units = 4 if parameters.heteroscedastic else 2
    outputs = parameters(keras.layers.Dense(units)(hidden))
    return tfp_bayes.BayesianModel(
        inputs, outputs, likelihood="normal", prior_scale=1.0, num_samples=20
    )


# The output layer.


@pytest.mark.parametrize("heteroscedastic", [True, False])
def test_head(heteroscedastic, tmp_path):
    layer = NormalParameters(heteroscedastic, min_scale=0.5)
    x = RNG.normal(size=(5, 4)).astype("float32")
    y = layer(x).numpy()
    targets = 2 if heteroscedastic else 4
    assert y.shape == layer.compute_output_shape(x.shape) == (5, 2 * targets)
    np.testing.assert_array_equal(y[:, :targets], x[:, :targets])
    scale = np.log1p(np.exp(x[:, 2:])) + 0.5 if heteroscedastic else np.full((5, 4), 1.5)
    np.testing.assert_allclose(y[:, targets:], scale, rtol=1e-4)
    assert len(layer.trainable_variables) == (0 if heteroscedastic else 1)
    copy = NormalParameters.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


def test_bad_head():
    with pytest.raises(ValueError, match="even last axis"):
        NormalParameters()(np.ones((2, 3)))
    with pytest.raises(ValueError, match="Received: min_scale=0"):
        NormalParameters(min_scale=0)


# The loss and the metric.


def test_loss_is_scipys_likelihood():
    y_pred = np.concatenate([RNG.normal(size=(40, 2)), RNG.uniform(0.5, 2, (40, 2))], axis=1)
    expected = -scipy.stats.norm(y_pred[:, :2], y_pred[:, 2:]).logpdf(Y).sum(1)
    np.testing.assert_allclose(NormalNLL().call(Y, tf.constant(y_pred)), expected, rtol=1e-6)
    assert float(NormalNLL()(Y, y_pred)) == pytest.approx(expected.mean(), rel=1e-6)


def test_loss_checks_the_shape_of_targets():
    y = RNG.normal(size=(4, 2, 3)).astype("float32")
    y_pred = np.concatenate([y, np.ones_like(y)], axis=-1)
    for same in (y, y[..., None]):
        assert float(NormalNLL()(same, y_pred)) == pytest.approx(1.5 * np.log(2 * np.pi), rel=1e-5)
    one = NormalNLL()(y[:, 0, 0], np.stack([y[:, 0, 0], np.ones(4)], axis=1))
    assert float(one) == pytest.approx(0.5 * np.log(2 * np.pi), rel=1e-5)
    with pytest.raises(ValueError, match=r"of shape \(4, 2, 3\).*Received: shape \(4, 3, 2\)"):
        NormalNLL()(y.transpose(0, 2, 1), y_pred)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_weights_the_gradients(beta):
    loc, scale = tf.Variable([[0.3]]), tf.Variable([[0.2]])
    with tf.GradientTape() as tape:
        loss = NormalNLL(beta)(np.array([[1.0]]), tf.concat([loc, scale], axis=1))
    by_loc, by_scale = (float(g[0, 0]) for g in tape.gradient(loss, [loc, scale]))
    weight = 0.2 ** (2 * beta)
    assert by_loc == pytest.approx(weight * (0.3 - 1) / 0.2**2, rel=1e-5)
    assert by_scale == pytest.approx(weight * (1 / 0.2 - 0.7**2 / 0.2**3), rel=1e-5)


def test_loss_in_a_file():
    copy = keras.losses.deserialize(keras.losses.serialize(NormalNLL(0.5)))
    assert copy.beta == 0.5
    with pytest.raises(ValueError, match="Received: beta=2"):
        NormalNLL(2)


def test_metric_sees_the_locations():
    metric = RootMeanSquaredError()
    y_pred = np.concatenate([Y + 0.5, 9 * np.ones_like(Y)], axis=1)
    metric.update_state(Y, y_pred)
    assert float(metric.result()) == pytest.approx(0.5, rel=1e-6)
    metric.reset_state()
    metric.update_state(Y[:, 0], y_pred[:, [0, 2]])  # one target, without its axis
    assert float(metric.result()) == pytest.approx(0.5, rel=1e-6)


# The predictor.


@pytest.mark.parametrize("num_samples", [1, 7])
def test_variance_splits(num_samples):
    p = network().predict_uncertainty(X, num_samples, seed=0, return_samples=True)
    loc, scale = np.split(p.samples.astype("float64"), 2, axis=-1)
    assert p.samples.shape == (num_samples, 40, 4)
    np.testing.assert_allclose(p.mean, loc.mean(0), atol=1e-5)
    np.testing.assert_allclose(p.epistemic_variance, loc.var(0), atol=1e-5)
    np.testing.assert_allclose(p.aleatoric_variance, (scale**2).mean(0), rtol=1e-5)
    total = p.variance
    expected = scipy.stats.norm(scale=np.sqrt(total)).entropy().sum(-1)
    np.testing.assert_allclose(p.predictive_entropy, expected, atol=1e-5)
    expected = scipy.stats.norm(scale=scale).entropy().sum(-1).mean(0)
    np.testing.assert_allclose(p.expected_entropy, expected, atol=1e-5)
    information = p.predictive_entropy - p.expected_entropy
    np.testing.assert_allclose(p.mutual_information, information, atol=1e-6)
    assert np.isnan(p.variation_ratio).all()


def test_model_learns_the_noise(tmp_path):
    """The model learns y = x with a noise scale of 0.1 left of 0 and 1 right of it."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2000, 1)).astype("float32")
    noise = np.where(x < 0, 0.1, 1.0)
    y = x + noise * rng.normal(size=x.shape)
    inputs = keras.Input((1,))
    hidden = keras.layers.Dense(64, "relu", kernel_initializer=keras.initializers.HeNormal(0))(
        inputs
    )
    hidden = MCDropout(0.05, seed=0)(hidden)
    raw = keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotUniform(1))(hidden)
    model = tfp_bayes.BayesianModel(
        inputs, NormalParameters()(raw), likelihood="normal", prior_scale=1.0, num_samples=50
    )
    model.compile(keras.optimizers.Adam(0.01), NormalNLL(), metrics=[RootMeanSquaredError()])
    history = model.fit(x, y, batch_size=100, epochs=15, verbose=0, validation_data=(x, y)).history
    assert history["val_loss"][-1] < history["val_loss"][0]

    at = np.array([[-0.5], [0.5]], "float32")
    p = model.predict_uncertainty(at, seed=0)
    np.testing.assert_allclose(p.mean, at, atol=0.15)
    np.testing.assert_allclose(np.sqrt(p.aleatoric_variance[:, 0]), [0.1, 1.0], rtol=0.35)
    np.testing.assert_array_equal(model.predict(at, verbose=0).shape, (2, 1))

    # `evaluate` scores the predictive normal: mean and total variance.
    p = model.predictor.predict_uncertainty(x, 50, (0, 0))
    total = p.std
    results = model.evaluate(x, y, verbose=0, return_dict=True)
    expected = -scipy.stats.norm(p.mean, total).logpdf(y).mean()
    assert results["loss"] == pytest.approx(expected, rel=1e-4)
    expected = np.sqrt(((p.mean - y) ** 2).mean())
    assert results["root_mean_squared_error"] == pytest.approx(expected, rel=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(at, verbose=0), model.predict(at, verbose=0))
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    result = served.predict_uncertainty(at, 20, [3, 0])
    expected = model.predict_uncertainty(at, 20, seed=3)
    np.testing.assert_array_equal(result["mean"], expected.mean)
    np.testing.assert_array_equal(result["aleatoric_variance"], expected.aleatoric_variance)


def test_closed_form_head_in_the_predictor():
    """Estimates from samples match the exact moments of the layer."""
    layer = BayesianLinear(2, noise_scale=0.5, include_noise=True, seed=0)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 4)
    layer.condition(X, Y)
    exact = layer.predictive(X[:5])
    p = Predictor(model, "normal").predict_uncertainty(X[:5], 5000, seed=0)
    z = (p.mean - exact.mean) / np.sqrt(exact.epistemic_variance / 5000)
    assert np.abs(z).max() < 4
    z = (p.epistemic_variance / exact.epistemic_variance - 1) / np.sqrt(2 / 5000)
    assert np.abs(z).max() < 4
    np.testing.assert_allclose(p.aleatoric_variance, 0.25, rtol=1e-6)


def test_bad_outputs():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(3)(MCDropout(0.5)(inputs)))
    with pytest.raises(ValueError, match=r"equally many locations and scales.*NormalParameters"):
        Predictor(model, "normal").predict(X, 2)
    diverged = network()
    diverged.layers[-2].kernel.assign(np.full((16, 4), np.nan))
    with pytest.raises(ValueError, match="finite"):
        diverged.predict_uncertainty(X)
