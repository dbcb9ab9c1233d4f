"""Tests of `calibrate` with vector scaling and isotonic regression."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, vectors

import tfp_bayes
from tfp_bayes import metrics
from tfp_bayes.layers import MCDropout
from tfp_bayes.uncertainty import Isotonic, VectorScaling, apply_temperature, fit_temperature
from tfp_bayes.uncertainty.cautious import cautious_temperature, held_out_gain
from tfp_bayes.uncertainty.fingerprint import fingerprint

ROWS = 1200
X = vectors(ROWS)
METHODS = {"vector": VectorScaling, "isotonic": Isotonic}


def drawn(probs, seed=1):
    """Labels less certain than the predictions of a model, with class 0 more frequent."""
    truth = apply_temperature(probs, 2.0) * [3.0, 1.0, 1.0]
    truth /= truth.sum(1, keepdims=True)
    u = np.random.default_rng(seed).random((len(truth), 1))
    return (truth.cumsum(1) > u).argmax(1)


@pytest.fixture(scope="module")
def uncalibrated():
    keras.utils.set_random_seed(0)
    model = bayesian_mlp(num_samples=4)
    model.layers[-1].kernel.assign(4 * model.layers[-1].kernel)
    model.compile("adam", "sparse_categorical_crossentropy")
    before, mean = model.predict_uncertainty(X, seed=0), model.predict(X, verbose=0)
    return model, before, mean, drawn(mean)


@pytest.mark.parametrize("method", METHODS)
def test_mean_is_calibrated_wherever_it_is_predicted(uncalibrated, method, tmp_path):
    model, before, mean, y = uncalibrated
    fitted = model.calibrate(X, y, method=method)
    expected = METHODS[method].fit(y, mean)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(fitted, name), value)
    predicted = model.predict(X, verbose=0)
    np.testing.assert_allclose(predicted, expected(mean), atol=1e-6)
    assert (predicted.argmax(1) != mean.argmax(1)).any()
    loss = model.evaluate(X, y, verbose=0)
    assert loss == pytest.approx(metrics.nll(y, expected(mean)), rel=1e-5)
    assert loss < metrics.nll(y, mean) - 0.1

    p = model.predict_uncertainty(X, seed=0, return_samples=True)
    np.testing.assert_allclose(p.mean, expected(before.mean), atol=1e-6)
    np.testing.assert_allclose(p.samples.mean(0), before.mean, atol=1e-6)  # not calibrated
    np.testing.assert_allclose(p.variance, p.mean * (1 - p.mean), rtol=1e-4)
    total = p.expected_entropy + p.mutual_information
    np.testing.assert_allclose(total, p.predictive_entropy, rtol=1e-5)
    assert np.isnan(p.temperature)
    assert model.output_temperature is None
    with pytest.raises(ValueError, match="is not calibrated"):
        p.interval(0.9)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), predicted)
    assert fingerprint(loaded) == fingerprint(model)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_array_equal(served.serve(X), predicted)
    answer = served.predict_uncertainty(X, 4, [0, 0])
    exact = model.predict_uncertainty(X, 4, seed=(0, 0))
    np.testing.assert_array_equal(answer["mutual_information"], exact.mutual_information)


def test_methods_replace_each_other(uncalibrated, tmp_path):
    model, _, mean, y = uncalibrated
    model.calibrate(X, y, method="vector")
    predicted = model.predict(X, verbose=0)
    model.save_weights(tmp_path / "with.weights.h5")
    digest = fingerprint(model)
    model.calibrate(X, y)  # a temperature replaces the other method
    assert 1 < model.output_temperature.numpy() < 3
    assert fingerprint(model) != digest
    np.testing.assert_allclose(
        model.predict(X, verbose=0),
        apply_temperature(mean, float(model.output_temperature)),
        atol=1e-6,
    )
    model.load_weights(tmp_path / "with.weights.h5")
    np.testing.assert_array_equal(model.predict(X, verbose=0), predicted)
    with pytest.raises(ValueError, match="Expected labels in"):
        model.calibrate(X, y + 1)
    np.testing.assert_array_equal(model.predict(X, verbose=0), predicted)
    assert keras.models.clone_model(model).output_temperature.numpy() == 1
    model._forget_calibration()
    np.testing.assert_array_equal(model.predict(X, verbose=0), mean)


def test_weights_count_as_repetitions(uncalibrated):
    model, _, _, y = uncalibrated
    weights = np.random.default_rng(0).integers(0, 3, ROWS)
    rows = np.repeat(np.arange(ROWS), weights)
    weighted = model.calibrate(X, y, method="vector", sample_weight=weights)
    repeated = model.calibrate(X[rows], y[rows], method="vector")
    np.testing.assert_allclose(weighted.offset, repeated.offset, atol=1e-2)
    with pytest.raises(ValueError, match="Expected 1200 numbers of at least 0"):
        model.calibrate(X, y, sample_weight=weights[1:])
    model._forget_calibration()


@pytest.mark.parametrize("method", METHODS)
def test_each_of_several_sigmoids_has_its_own(method):
    inputs = keras.Input((5,))
    outputs = keras.layers.Dense(2, activation="sigmoid")(MCDropout(0.1, seed=0)(inputs))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="bernoulli", num_samples=2)
    model.set_weights([3 * w for w in model.get_weights()])
    mean = model.predict(X, verbose=0).astype("float64")
    u = np.random.default_rng(0).random((ROWS, 2))
    # Label 1 is rarer in one output and more frequent in the other.
    y = (u < mean ** [2.0, 0.5]).astype("int64")
    found = model.calibrate(X, y, method=method)
    expected = np.empty_like(mean)
    for k, each in enumerate(found):
        two = np.stack([1 - mean[:, k], mean[:, k]], axis=1)
        expected[:, k] = METHODS[method].fit(y[:, k], two)(two)[:, 1]
        np.testing.assert_array_equal(each(two)[:, 1], expected[:, k])
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-5)
    p = model.predict_uncertainty(X, seed=0)
    total = p.expected_entropy + p.mutual_information
    np.testing.assert_allclose(total, p.predictive_entropy, rtol=1e-4)


def test_chance_leaves_the_model_alone(uncalibrated):
    """For labels drawn from the model's probabilities, calibration could only fit noise."""
    model, _, mean, _ = uncalibrated
    u = np.random.default_rng(3).random((ROWS, 1))
    y = (mean.cumsum(1) > u).argmax(1)
    with pytest.warns(UserWarning, match="is left uncalibrated"):
        model.calibrate(X, y, method="isotonic")
    np.testing.assert_array_equal(model.predict(X, verbose=0), mean)
    assert model.output_temperature.numpy() == 1


def test_cautious_temperature_is_a_standard_error_from_the_best():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([0.3] * 3, 400)
    y = (apply_temperature(probs, 1.5).cumsum(1) > rng.random((400, 1))).argmax(1)

    def losses(temperature):
        return -np.log(apply_temperature(probs, temperature)[np.arange(400), y])

    best = fit_temperature(y, probs)
    found = cautious_temperature(y, probs, np.ones(400), 400)
    excess = losses(found) - losses(best)
    assert 1 < found < best
    assert excess.mean() == pytest.approx(excess.std(ddof=1) / 20, rel=1e-3)
    few = cautious_temperature(y[:8], probs[:8], np.ones(8), 8)
    assert abs(np.log(few)) <= abs(np.log(fit_temperature(y[:8], probs[:8])))
    assert cautious_temperature(y[:1], probs[:1], np.ones(1), 1) == 1
    # Ten equal pixels of an image are no more information than one.
    pixels = cautious_temperature(y.repeat(10), probs.repeat(10, axis=0), np.ones(4000), 400)
    assert pixels == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("positions", [1, 4])
def test_held_out_gain_equals_a_loop_of_constants(positions):
    """A calibration to class frequencies. The probabilities of a row encode its index."""
    y = np.random.default_rng(0).permutation(np.repeat([0, 1], [30, 10]))
    first = 0.5 + np.arange(40) / 1000
    probs = np.stack([first, 1 - first], axis=1)

    def example(p):
        return np.rint((p[:, 0] - 0.5) * 1000).astype(int) // positions

    def fit(y, p, weights):
        used = example(p)

        def calibrated(held):
            assert not np.isin(example(held), used).any()  # in any position of the example
            return np.tile([(y == 0).mean(), (y == 1).mean()], (len(held), 1))

        return calibrated

    mean, error = held_out_gain(fit, y, probs, np.ones(40), 40 // positions)
    if positions > 1:  # the parts have different frequencies
        assert error > 0
        return
    rows = np.arange(40)
    gains = np.log(np.where(y == 0, 0.75, 0.25)) - np.log(probs[rows, y])
    assert mean == pytest.approx(gains.mean())
    assert error == pytest.approx(gains.std(ddof=1) / np.sqrt(40))


@pytest.mark.parametrize(
    ("method", "rows", "message"),
    [
        ("isotonic", 900, "at least 1,000 held-out examples"),
        ("platt", ROWS, "Expected one of"),
    ],
)
def test_refuses(uncalibrated, method, rows, message):
    model, _, mean, y = uncalibrated
    with pytest.raises(ValueError, match=message):
        model.calibrate(X[:rows], y[:rows], method=method)
    np.testing.assert_array_equal(model.predict(X, verbose=0), mean)


@pytest.mark.parametrize("method", METHODS)
def test_one_image_is_too_few_for_cross_validation(method):
    """Its pixels are in one fold, so there is nothing to fit the other folds on."""
    inputs = keras.Input((40, 30, 1))
    outputs = keras.layers.Conv2D(3, 1, activation="softmax")(MCDropout(0.1, seed=0)(inputs))
    model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=2)
    x = np.random.default_rng(0).normal(size=(9, 40, 30, 1)).astype("float32")
    y = np.arange(x.size).reshape(x.shape[:-1]) % 3
    weights = np.zeros(9)
    for number in (1, 2):
        weights[:number] = 1
        if number == 1:
            with pytest.raises(ValueError, match="at least two held-out examples of positive"):
                model.calibrate(x, y, method=method, sample_weight=weights)
        else:
            model.calibrate(x, y, method=method, sample_weight=weights)


def test_a_missing_class_is_refused(uncalibrated):
    model, _, _, y = uncalibrated
    with pytest.raises(ValueError, match=r"no example of the classes \[2\]"):
        model.calibrate(X, y % 2, method="vector")
