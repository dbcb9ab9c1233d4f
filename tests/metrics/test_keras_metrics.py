"""Keras metrics return what the plain functions return, in `fit` and `evaluate` too."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import run_python
from scipy.special import ndtri

import tfp_bayes
from tfp_bayes import metrics

RNG = np.random.default_rng(0)
N, K, D = 230, 4, 2
PROBS = RNG.dirichlet([0.4] * K, N)
LABELS = np.array([RNG.choice(K, p=p) for p in PROBS])
VOTES = RNG.multinomial(10, [0.7, 0.1, 0.1, 0.1], N) / 10  # on the edges of ten bins
Y, LOC = RNG.normal(size=(2, N, D))
SCALE = RNG.gamma(2, 0.5, (N, D)) + 0.1
PARAMETERS = np.concatenate([LOC, SCALE], axis=1)
HALF = SCALE * ndtri(0.9)

CLASSIFICATION = {
    "nll": (metrics.NegativeLogLikelihood(), metrics.nll),
    "brier": (metrics.BrierScore(), metrics.brier),
    "ece": (metrics.ExpectedCalibrationError(), metrics.expected_calibration_error),
    "ece 10": (
        metrics.ExpectedCalibrationError(10),
        lambda y, p: metrics.expected_calibration_error(y, p, 10),
    ),
    "mce": (metrics.MaximumCalibrationError(), metrics.maximum_calibration_error),
    "classwise": (metrics.ClasswiseCalibrationError(K), metrics.classwise_calibration_error),
}
REGRESSION = {
    "rmse": (metrics.RootMeanSquaredError(), metrics.rmse(Y, LOC)),
    "nll": (metrics.NormalNegativeLogLikelihood(), metrics.normal_nll(Y, LOC, SCALE)),
    "crps": (metrics.NormalCRPS(), metrics.crps_normal(Y, LOC, SCALE)),
    "coverage": (
        metrics.IntervalCoverage(level=0.8),
        metrics.interval_coverage(Y, LOC - HALF, LOC + HALF),
    ),
    "score": (
        metrics.IntervalScore(level=0.8),
        metrics.interval_score(Y, LOC - HALF, LOC + HALF, level=0.8),
    ),
    "pit": (
        metrics.PITCalibrationError(),
        metrics.pit_calibration_error(metrics.normal_pit(Y, LOC, SCALE)),
    ),
}
BY_NAME = [
    *(pytest.param(*case, id=name) for name, case in CLASSIFICATION.items()),
]


def stream(metric, y, p, weight=None, batch=64, run=None):
    metric.reset_state()
    update = run or metric.update_state
    for start in range(0, len(p), batch):
        rows = slice(start, start + batch)
        update(y[rows], p[rows], None if weight is None else weight[rows])
    return float(metric.result())


@pytest.mark.parametrize("p", [PROBS, VOTES, PROBS.astype("float32")], ids=["", "votes", "single"])
@pytest.mark.parametrize(("metric", "function"), BY_NAME)
def test_batches_equal_the_whole(metric, function, p):
    expected = function(LABELS, p)
    for batch in (1000, 64, 7):
        assert stream(metric, LABELS, p, batch=batch) == pytest.approx(expected, abs=1e-12)
    column = LABELS[:, None].astype("uint8")
    assert stream(metric, column, p) == pytest.approx(expected, abs=1e-12)
    assert stream(metric, np.eye(K)[LABELS], p) == pytest.approx(expected, abs=1e-12)
    assert stream(metric, LABELS.astype("float32"), p) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("metric", "function"), BY_NAME)
def test_half_precision(metric, function):
    p = PROBS.astype("float16")
    assert stream(metric, LABELS, p) == pytest.approx(function(LABELS, p), abs=1e-12)


@pytest.mark.parametrize(("metric", "function"), BY_NAME)
def test_weights_repeat_rows(metric, function):
    weight = RNG.integers(0, 3, N)
    if isinstance(metric, metrics.MaximumCalibrationError):
        weight = np.minimum(weight, 1)  # its ten-row limit counts rows, not weights
    expected = function(np.repeat(LABELS, weight), np.repeat(PROBS, weight, axis=0))
    for given in (weight, weight[:, None], weight.astype("float32")):
        assert stream(metric, LABELS, PROBS, given) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("metric", "function"), BY_NAME)
def test_rows_of_weight_zero_may_hold_anything(metric, function):
    p, y, weight = PROBS.copy(), LABELS.copy(), np.ones(N)
    p[:3], y[3:5], weight[:5] = [[np.nan] * K, [5, -3, 0, 1], [0] * K], 255, 0
    expected = function(LABELS[5:], PROBS[5:])
    assert stream(metric, y, p, weight) == pytest.approx(expected, abs=1e-12)


def test_one_sigmoid_is_two_classes():
    p = PROBS[:, 1:2]
    y = (RNG.random(N) < 0.4).astype("int64")
    both = np.hstack([1 - p, p])
    for metric, function in (
        *list(CLASSIFICATION.values())[:-1],
        (metrics.ClasswiseCalibrationError(2), metrics.classwise_calibration_error),
    ):
        expected = function(y, both)
        assert stream(metric, y, p) == pytest.approx(expected, abs=1e-12)
        assert stream(metric, y[:, None].astype("float32"), p) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("metric", "function"), BY_NAME)
def test_pixels_are_rows(metric, function):
    p, y = PROBS.reshape(23, 2, 5, K), LABELS.reshape(23, 2, 5)
    expected = function(LABELS, PROBS)
    assert stream(metric, y, p, batch=4) == pytest.approx(expected, abs=1e-12)
    assert stream(metric, y[..., None], p, batch=4) == pytest.approx(expected, abs=1e-12)
    weight = np.arange(23) % 2
    expected = function(y[1::2].ravel(), p[1::2].reshape(-1, K))
    assert stream(metric, y, p, weight, batch=4) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("metric", "expected"), REGRESSION.values(), ids=REGRESSION)
def test_regression(metric, expected):
    for batch in (1000, 64, 7):
        assert stream(metric, Y, PARAMETERS, batch=batch) == pytest.approx(expected, abs=1e-12)
    bad = np.concatenate([PARAMETERS, np.full((2, 2 * D), np.nan), -PARAMETERS[:1]])
    y, weight = np.concatenate([Y, np.full((3, D), np.nan)]), np.ones(N + 3)
    weight[N:] = 0
    assert stream(metric, y, bad, weight) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(stream(metric, y[: N + 1], bad[: N + 1]))
    missing = np.where(np.arange(N)[:, None] == 3, np.nan, Y)
    assert np.isnan(stream(metric, missing, PARAMETERS))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"positive scales.*NormalParameters"):
        metric.update_state(Y, -PARAMETERS)
    with pytest.raises(ValueError, match=r"2 D columns.*\(230, 3\)"):
        metric.update_state(Y, PARAMETERS[:, :3])
    with pytest.raises(ValueError, match=r"Expected shape \(230, 2\) for `y_true`"):
        metric.update_state(Y.T, PARAMETERS)
    compiled = tf.function(metric.update_state, jit_compile=True)
    assert stream(metric, Y, PARAMETERS, run=compiled) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(stream(metric, Y, -PARAMETERS, run=compiled))


@pytest.mark.parametrize(("metric", "function"), BY_NAME)
def test_xla(metric, function):
    update = tf.function(metric.update_state, jit_compile=True)
    expected = function(LABELS, PROBS)
    assert stream(metric, LABELS, PROBS, batch=115, run=update) == pytest.approx(
        expected, abs=1e-12
    )
    assert np.isnan(stream(metric, LABELS, np.log(PROBS), batch=115, run=update))
    assert np.isnan(stream(metric, LABELS + 2, PROBS, batch=115, run=update))


@pytest.mark.parametrize(("metric", "function"), BY_NAME)
def test_what_is_no_probability_is_refused(metric, function):
    metric.reset_state()
    update = tf.function(metric.update_state)
    for run in (metric.update_state, update):
        for p in (np.log(PROBS), PROBS / 2, PROBS - 0.1):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)softmax"):
                run(LABELS, p)
        for y in (LABELS + 1, LABELS - 1, LABELS + 0.5, np.eye(K)[LABELS] * 0.9):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels in \[0, 4\)"):
                run(y, PROBS)
        with pytest.raises(tf.errors.InvalidArgumentError, match="`sample_weight`"):
            run(LABELS, PROBS, -np.ones(N))
        for y in (LABELS[:-1], LABELS.reshape(23, 10), np.eye(3)[LABELS % 3]):
            with pytest.raises(ValueError, match=r"Expected shape .* for `y_true`"):
                run(y, PROBS)
        with pytest.raises(ValueError, match="axes for `sample_weight`"):
            run(LABELS, PROBS, np.ones((N, 2)))
    assert np.isnan(float(metric.result()))  # no row was added
    p = np.where(np.arange(N)[:, None] == 3, np.nan, PROBS)
    assert np.isnan(stream(metric, LABELS, p))
    assert not np.isnan(stream(metric, LABELS, PROBS))


@pytest.mark.parametrize("metric", [metrics.BrierScore(), metrics.RootMeanSquaredError()])
def test_outputs_without_an_axis_of_columns_are_refused(metric):
    """Sigmoid outputs (N,) that sum to 1 could be mistaken for one row of N classes."""
    for run in (metric.update_state, tf.function(metric.update_state)):
        with pytest.raises(ValueError, match=r"\(N, ..., K\), for `y_pred`.* shape \(3,\)"):
            run([0.0, 1.0, 0.0], [0.2, 0.5, 0.3])
    specs = [tf.TensorSpec([None], "float32")] * 2  # a batch of unknown size
    with pytest.raises(ValueError, match=r"shape \(None,\).*Dense\(1\)"):
        tf.function(metric.update_state).get_concrete_function(*specs)


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match="Expected 4 classes"):
        metrics.ClasswiseCalibrationError(4).update_state([0], [[0.5, 0.5]])
    for make in (metrics.ExpectedCalibrationError, metrics.MaximumCalibrationError):
        with pytest.raises(ValueError, match="num_bins=0"):
            make(num_bins=0)
    with pytest.raises(ValueError, match="num_classes=1"):
        metrics.ClasswiseCalibrationError(1)
    with pytest.raises(ValueError, match="level=90"):
        metrics.IntervalCoverage(90)


def test_no_bin_of_ten_rows_has_no_maximum():
    metric = metrics.MaximumCalibrationError()
    metric.update_state(LABELS[:5], PROBS[:5])
    assert np.isnan(float(metric.result()))


def test_weights_count_in_the_largest_gap_and_not_as_rows():
    metric = metrics.MaximumCalibrationError()
    y, p = [0] * 9 + [1], [[0.7, 0.3]] * 10
    metric.update_state(y, p, [1.0] * 9 + [3.0])
    assert float(metric.result()) == pytest.approx(0.05)  # right 9 of 12
    metric.reset_state()
    metric.update_state(y[:9], p[:9], [3.0] * 9)  # nine rows of weight 27
    assert np.isnan(float(metric.result()))


def classifier():
    keras.utils.set_random_seed(0)
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    x = keras.layers.Dense(6)(keras.layers.Concatenate()([inputs["a"], inputs["b"]]))
    x = keras.layers.Add()([x, keras.layers.BatchNormalization()(x)])
    several = keras.layers.Dense(K, activation="softmax", name="several")(x)
    one = keras.layers.Dense(1, activation="sigmoid", name="one")(x)
    return keras.Model(inputs, {"several": several, "one": one})


def new_metrics():
    return {
        "several": [
            metrics.NegativeLogLikelihood(),
            metrics.BrierScore(),
            metrics.ExpectedCalibrationError(10),
            metrics.MaximumCalibrationError(),
            metrics.ClasswiseCalibrationError(K),
        ],
        "one": [metrics.BrierScore(), metrics.ExpectedCalibrationError()],
    }


LOSS = {"several": "sparse_categorical_crossentropy", "one": "binary_crossentropy"}
X = {"a": RNG.normal(size=(N, 3)), "b": RNG.normal(size=(N, 3))}
TARGETS = {"several": LABELS[:, None], "one": LABELS % 2}


def check_evaluation(model, results):
    p = {name: np.asarray(each) for name, each in model.predict(X, verbose=0).items()}
    two = np.hstack([1 - p["one"].astype("float64"), p["one"]])
    expected = {
        "several_nll": metrics.nll(LABELS, p["several"]),
        "several_brier": metrics.brier(LABELS, p["several"]),
        "several_ece": metrics.expected_calibration_error(LABELS, p["several"], 10),
        "several_mce": metrics.maximum_calibration_error(LABELS, p["several"]),
        "several_classwise_ece": metrics.classwise_calibration_error(LABELS, p["several"]),
        "one_brier": metrics.brier(LABELS % 2, two),
        "one_ece": metrics.expected_calibration_error(LABELS % 2, two),
    }
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_in_fit_and_evaluate_under_xla():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(K, activation="softmax")])
    classwise = metrics.ClasswiseCalibrationError(K)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[classwise], jit_compile=True)
    history = model.fit(X["a"], LABELS, batch_size=115, verbose=0).history
    assert 0 < history["classwise_ece"][0] < 1
    results = model.evaluate(X["a"], LABELS, batch_size=115, verbose=0, return_dict=True)
    expected = metrics.classwise_calibration_error(LABELS, model.predict(X["a"], verbose=0))
    assert results["classwise_ece"] == pytest.approx(expected, abs=1e-6)


def test_replicas_are_summed(two_replicas):
    """Evaluates without `fit`, because in `fit` each replica has its own batch statistics."""
    with two_replicas.scope():
        model = classifier()
        model.compile("sgd", LOSS, metrics=new_metrics())
    check_evaluation(model, model.evaluate(X, TARGETS, batch_size=64, verbose=0, return_dict=True))


def test_a_saved_model_has_its_metrics_in_a_fresh_process(tmp_path):
    model = classifier()
    model.compile("sgd", LOSS, metrics=new_metrics())
    model.fit(X, TARGETS, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", **X)
    code = (
        "import sys, keras, numpy as np, tfp_bayes\n"
        "model = keras.saving.load_model(sys.argv[1] + '/model.keras')\n"
        "y = np.arange(230) % 4\n"
        "y = {'several': y[:, None], 'one': y % 2}\n"
        "x = dict(np.load(sys.argv[1] + '/x.npz'))\n"
        "results = model.evaluate(x, y, verbose=0, return_dict=True)\n"
        "print(*(f'{name}={float(value)!r}' for name, value in results.items()))\n"
    )
    y = np.arange(N) % K
    expected = model.evaluate(X, {"several": y[:, None], "one": y % 2}, verbose=0, return_dict=True)
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    found = dict(each.split("=") for each in done.stdout.split())
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def all_metrics():
    return [metric for metric, _ in [*CLASSIFICATION.values(), *REGRESSION.values()]]


@pytest.mark.parametrize("metric", all_metrics(), ids=lambda metric: type(metric).__name__)
def test_config_makes_the_same_metric(metric):
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(restored) is type(metric)
    assert restored.get_config() == metric.get_config()
    assert restored.dtype == "float64"


def test_metrics_of_normal_outputs_see_scales():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    x = tfp_bayes.layers.MCDropout(0.0)(keras.layers.Dense(2 * D)(inputs))
    outputs = tfp_bayes.layers.NormalParameters()(x)
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal", num_samples=1)
    levels = [metrics.IntervalCoverage(level=0.5), metrics.NormalNegativeLogLikelihood(name="n")]
    model.compile("sgd", tfp_bayes.losses.NormalNLL(), metrics=[*levels, metrics.NormalCRPS()])
    results = model.evaluate(X["a"], Y, verbose=0, return_dict=True)
    p = model.predict_uncertainty(X["a"], num_samples=1, seed=0)
    assert results["n"] == pytest.approx(metrics.normal_nll(Y, p.mean, p.std), rel=1e-5)
    assert results["crps"] == pytest.approx(metrics.crps_normal(Y, p.mean, p.std), rel=1e-5)
    half = p.std * ndtri(0.75)
    expected = metrics.interval_coverage(Y, p.mean - half, p.mean + half)
    assert results["interval_coverage"] == pytest.approx(expected)
