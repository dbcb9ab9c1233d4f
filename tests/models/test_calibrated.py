"""Tests of `calibrate` with a temperature, in every method that predicts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, vectors

import tfp_bayes
from tfp_bayes import datasets, metrics
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.prediction.calibration import Calibration, calibrated, calibration_of
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.uncertainty import apply_temperature, fit_temperature
from tfp_bayes.uncertainty.fingerprint import fingerprint

X = vectors(100)
Y = np.arange(100) % 3
MEASURES = ("predictive_entropy", "expected_entropy", "mutual_information", "epistemic_variance")


def compiled():
    keras.utils.set_random_seed(0)
    model = bayesian_mlp(num_samples=7)
    model.layers[-1].kernel.assign(9 * model.layers[-1].kernel)  # overconfident
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module")
def case():
    """A calibrated model and its predictions before calibration."""
    model = compiled()
    before, mean = model.predict_uncertainty(X, seed=0), model.predict(X, verbose=0)
    model.calibrate(X, labels_for(mean)[:, None])
    return model, before, mean


def labels_for(mean):
    """Labels that are less certain than the predictions of a model."""
    truth = apply_temperature(mean, 3.0).cumsum(1)
    return (truth > np.random.default_rng(1).random((len(mean), 1))).argmax(1)


def test_mean_is_tempered_wherever_it_is_predicted(case):
    model, before, mean = case
    y, temperature = labels_for(mean), float(model.output_temperature)
    assert 1.2 < temperature < fit_temperature(y, mean)
    after = model.predict_uncertainty(X, seed=0)
    tempered_mean = apply_temperature(before.mean, temperature)
    np.testing.assert_allclose(after.mean, tempered_mean, atol=1e-6)
    predicted = apply_temperature(mean, temperature)
    np.testing.assert_allclose(model.predict(X, verbose=0), predicted, atol=1e-6)
    loss = model.evaluate(X, y, verbose=0)
    assert loss == pytest.approx(metrics.nll(y, predicted), rel=1e-5)
    assert loss < metrics.nll(y, mean) - 0.02
    assert tfp_bayes.Predictor(model).predict(X, 7, seed=0).tolist() == after.mean.tolist()


def test_measures_are_those_of_the_tempered_mean_and_sum(case):
    model, before, _ = case
    p = model.predict_uncertainty(X, seed=0, return_samples=True)
    entropy = -(p.mean * np.log(p.mean)).sum(1)
    np.testing.assert_allclose(p.predictive_entropy, entropy, rtol=1e-5)
    np.testing.assert_allclose(p.expected_entropy + p.mutual_information, entropy, rtol=1e-5)
    np.testing.assert_allclose(p.variance, p.mean * (1 - p.mean), rtol=1e-4)
    np.testing.assert_allclose(
        p.mutual_information / p.predictive_entropy,
        before.mutual_information / before.predictive_entropy,
        rtol=1e-4,
    )
    np.testing.assert_allclose(p.mean_std, np.sqrt(p.epistemic_variance).mean(1), rtol=1e-5)
    np.testing.assert_allclose(p.variation_ratio, 1 - p.mean.max(1), rtol=1e-5)
    for name in MEASURES:
        assert (getattr(p, name) >= 0).all()
    np.testing.assert_allclose(p.samples.mean(0), before.mean, atol=1e-6)  # not calibrated
    with pytest.raises(ValueError, match="is not calibrated"):
        p.interval(0.9)
    assert p[3:5].temperature == p.temperature == float(model.output_temperature)


def test_temperature_of_one_changes_no_bit(case):
    model, before, mean = case
    found = model.output_temperature.numpy()
    model.output_temperature.assign(1.0)
    after = model.predict_uncertainty(X, seed=0)
    for name in (*MEASURES, "mean", "aleatoric_variance", "mean_std", "variation_ratio"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(model.predict(X, verbose=0), mean)
    model.output_temperature.assign(found)


def test_files_carry_it_and_those_without_load(case, tmp_path):
    model, _, mean = case
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_array_equal(served.serve(X), expected)
    p = model.predict_uncertainty(X, seed=(0, 3))
    result = served.predict_uncertainty(X, 7, [0, 3])
    for name in ("mean", *MEASURES):
        np.testing.assert_array_equal(result[name], getattr(p, name))

    model.save_weights(tmp_path / "with.weights.h5")
    found = model.output_temperature.numpy()
    model.output_temperature.assign(1.0)
    model.save_weights(tmp_path / "without.weights.h5")  # as in earlier versions
    loaded.load_weights(tmp_path / "without.weights.h5")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), mean)
    model.load_weights(tmp_path / "with.weights.h5")
    assert model.output_temperature.numpy() == found


def test_it_is_no_part_of_the_network():
    model = compiled()
    names = [v.path for v in model.variables]
    assert "output_temperature" not in " ".join(names)
    model.output_temperature.assign(2.0)
    assert keras.models.clone_model(model).output_temperature.numpy() == 1
    assert calibration_of(model, None) is model.output_calibration
    posterior = tfp_bayes.StoredPosterior(model, [w[None] for w in model.get_weights()])
    assert calibration_of(model, posterior) is None  # it was not fitted for these samples
    with pytest.warns(UserWarning, match="resets the temperature to 1"):
        model.fit(X, Y, verbose=0)
    assert model.output_temperature.numpy() == 1
    model.output_temperature.assign(2.0)
    with pytest.warns(UserWarning, match="resets the temperature to 1"):
        model.train_on_batch(X, Y)
    assert model.output_temperature.numpy() == 1


def test_under_a_strategy(two_replicas):
    with two_replicas.scope():
        model = compiled()
    mean = model.predict(X, verbose=0)
    with pytest.warns(UserWarning, match="at the end"):
        model.calibrate(X, mean.argmin(1))
    expected = apply_temperature(mean, 20.0)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-5)
    fingerprint(model)


def test_bernoulli_and_pixels():
    inputs = keras.Input((4, 4, 2))
    hidden = MCDropout(0.3, seed=1)(inputs)
    x = np.random.default_rng(0).normal(size=(50, 4, 4, 2)).astype("float32")
    for likelihood, outputs in (
        ("bernoulli", keras.layers.Conv2D(1, 1, activation="sigmoid")(hidden)),
        ("categorical", keras.layers.Conv2D(2, 1, activation="softmax")(hidden)),
    ):
        model = tfp_bayes.BayesianModel(inputs, outputs, likelihood=likelihood, num_samples=4)
        kernel = np.zeros((1, 1, 2, outputs.shape[-1]))
        kernel[0, 0, 0, -1] = 4.0
        model.layers[-1].set_weights([kernel, np.zeros(outputs.shape[-1])])
        y = (x[..., 0] + np.random.default_rng(0).normal(size=(50, 4, 4)) > 0).astype("int64")
        y = y[..., None] if likelihood == "bernoulli" else y
        before = -model.predict_uncertainty(x, seed=(0, 0)).log_prob(y).mean()
        assert 1.2 < model.calibrate(x, y) < 10
        p = model.predict_uncertainty(x, seed=(0, 0))
        assert -p.log_prob(y).mean() < before - 0.01
        total = p.expected_entropy + p.mutual_information
        np.testing.assert_allclose(total, p.predictive_entropy, rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_masked_time_steps_do_not_count(likelihood, method):
    """Padded sequences of one length are calibrated as the same sequences without padding."""
    rng = np.random.default_rng(0)
    words = keras.Input((None,), dtype="int32")
    hidden = MCDropout(0.3, seed=1)(keras.layers.Embedding(9, 6, mask_zero=True, name="e")(words))
    units, activation = (3, "softmax") if likelihood == "categorical" else (1, "sigmoid")
    outputs = keras.layers.Dense(units, activation, name="d")(hidden)
    model = tfp_bayes.BayesianModel(words, outputs, likelihood=likelihood, num_samples=4)
    for name in "ed":
        each = model.get_layer(name)
        each.set_weights([2 * rng.normal(size=w.shape) for w in each.get_weights()])
    x = rng.integers(1, 9, (90, 4))
    mean = model.predict(x, verbose=0)
    probs = mean if units == 3 else np.concatenate([1 - mean, mean], axis=-1)
    y = labels_for(probs.reshape(360, -1)).reshape(90, 4, *[1] * (units == 1))
    model.calibrate(x, y, method=method)
    expected = model.predict(x, verbose=0)
    assert np.abs(expected - mean).max() > 0.02
    padded_x, padded_y = np.zeros((91, 7), int), np.full((91, 7, *y.shape[2:]), -1)
    padded_x[:90, :4], padded_y[:90, :4] = x, y
    model.calibrate(padded_x, padded_y, batch_size=32, method=method)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="Expected time steps that are not masked"):
        model.calibrate(padded_x[90:], padded_y[90:])


def at(temperature):
    return Calibration("temperature", {"temperature": temperature})


def test_bernoulli_equals_two_classes():
    p = tf.constant([[0.9], [0.01], [0.0], [1.0], [np.nan], [1.5]], tf.float64)
    actual = get_likelihood("bernoulli").calibrate(p, at(2.0))
    two = apply_temperature(np.hstack([1 - p[:4], p[:4]]), 2.0)[:, 1]
    np.testing.assert_allclose(actual[:4, 0], two)
    np.testing.assert_array_equal(actual[4:, 0], [np.nan, 1.5])  # `check` finds them later
    logits = tf.constant([[3.0, -1.0], [np.nan, 0.5]], tf.float64)
    found = get_likelihood("categorical").calibrate(logits, at(2.0))
    np.testing.assert_array_equal(found, logits)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 20.0])
def test_no_temperature_makes_a_measure_negative(temperature):
    samples = np.random.default_rng(0).dirichlet(np.full(4, 0.05), (5, 200))
    mean = samples.mean(0)
    h = -(mean * np.log(mean + 1e-300)).sum(1)
    e = -(samples * np.log(samples + 1e-300)).sum(2).mean(0)
    measures = {
        "mean": mean,
        "predictive_entropy": h,
        "expected_entropy": e,
        "mutual_information": h - e,
        "epistemic_variance": samples.var(0),
        "aleatoric_variance": mean * (1 - mean) - samples.var(0),
    }
    tensors = {name: tf.constant(value) for name, value in measures.items()}
    likelihood = get_likelihood("categorical")
    after = calibrated(tensors, likelihood, at(temperature))
    assert all((value.numpy() >= 0).all() for value in after.values())
    total = after["expected_entropy"] + after["mutual_information"]
    np.testing.assert_allclose(total, after["predictive_entropy"], atol=1e-12)


def regression():
    outputs = NormalParameters()(MCDropout(0.1)(inputs := keras.Input((4,))))
    return tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal")


def two_outputs():
    inputs = keras.Input((5,))
    hidden = MCDropout(0.1)(inputs)
    outputs = [keras.layers.Dense(3, activation="softmax")(hidden) for _ in range(2)]
    return tfp_bayes.BayesianModel(inputs, outputs)


@pytest.mark.parametrize(
    ("make", "y", "message"),
    [
        (regression, Y, "one output of probabilities"),
        (two_outputs, Y, "one output of probabilities"),
        (compiled, Y + 1, "Expected labels in"),
        (compiled, Y[:-1], "integer labels of shape"),
        (compiled, keras.utils.to_categorical(Y), "convert one-hot labels"),
    ],
)
def test_refuses(make, y, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        model.calibrate(X, y)
    assert model.output_temperature is None or model.output_temperature.numpy() == 1


def test_a_calibration_that_fails_keeps_the_one_before():
    model = compiled()
    model.output_temperature.assign(2.0)
    with pytest.raises(ValueError, match="Expected labels in"):
        model.calibrate(X, Y + 1)
    assert model.output_temperature.numpy() == 2


@pytest.mark.filterwarnings("ignore:The temperature with the smallest loss")
def test_labels_of_several_sigmoids_are_one_for_each():
    """Labels of equal size but another shape are refused: they would belong to other outputs."""
    outputs = keras.layers.Dense(3, activation="sigmoid")(
        MCDropout(0.1)(inputs := keras.Input((5,)))
    )
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="bernoulli", num_samples=2)
    y = np.random.default_rng(0).integers(0, 2, (100, 3))
    assert model.calibrate(X, y) == model.calibrate(X, y.astype("float32"))
    for wrong in (y.T, y.reshape(-1), y[:, :1], y + 1):
        with pytest.raises(
            ValueError, match=r"Expected 100 labels of 0 and 1, of shape \(100, 3\)"
        ):
            model.calibrate(X, wrong)


def test_nan_inputs_are_refused():
    x = X.copy()
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match="Expected"):
        compiled().calibrate(x, Y)


def test_labels_that_are_all_right_say_so():
    model = compiled()
    with pytest.warns(UserWarning, match="at the end of the search interval"):
        model.calibrate(X, model.predict(X, verbose=0).argmax(1))


def test_test_loss_is_not_worse_on_mnist():
    (x, y), (x_test, y_test) = datasets.load("mnist").splits
    model = tfp_bayes.BayesianMLP(hidden_units=(32,), seed=0, num_samples=8)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:600], y[:600], epochs=3, verbose=0)
    before = model.evaluate(x_test, y_test, verbose=0)
    model.calibrate(x[600:1600], y[600:1600])
    assert model.evaluate(x_test, y_test, verbose=0) <= before + 0.001
