"""Tests of losses that match the likelihood of a model, and of those that are refused."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_bayes
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.losses import NormalNLL
from tfp_bayes.metrics import RootMeanSquaredError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")


def model(likelihood="categorical", units=2, **kwargs):
    inputs = keras.Input((3,))
    activation = {"categorical": "softmax", "bernoulli": "sigmoid", "normal": None}[likelihood]
    hidden = MCDropout(0.2, seed=0)(inputs)
    outputs = keras.layers.Dense(2 * units if activation is None else units, activation)(hidden)
    if likelihood == "normal":
        outputs = NormalParameters()(outputs)
    return tfp_bayes.BayesianModel(inputs, outputs, likelihood=likelihood, num_samples=4, **kwargs)


class MeanOfAll(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred))


REFUSED = [
    ("categorical", "mse", r"likelihood='categorical'.*mean_squared_error"),
    ("categorical", "binary_crossentropy", "sparse_categorical_crossentropy"),
    ("categorical", keras.losses.CategoricalFocalCrossentropy(), "CategoricalFocalCrossentropy"),
    ("categorical", keras.losses.SparseCategoricalCrossentropy(from_logits=True), "from_logits"),
    ("categorical", keras.losses.SparseCategoricalCrossentropy(reduction="sum"), "'sum'"),
    ("categorical", keras.losses.CategoricalCrossentropy(reduction=None), "reduction=None"),
    ("categorical", keras.losses.CategoricalCrossentropy(axis=1), "axis=1"),
    (
        "categorical",
        functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
        "from_logits=True",
    ),
    ("bernoulli", "sparse_categorical_crossentropy", "binary_crossentropy"),
    ("bernoulli", keras.losses.BinaryCrossentropy(from_logits=True), "softmax or sigmoid"),
    ("bernoulli", keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight"), "leave"),
    ("normal", "mse", r"NormalNLL\(\)"),
    ("normal", keras.losses.Huber(), "Huber"),
    ("normal", NormalNLL(reduction="sum"), "NormalNLL with reduction='sum'"),
    ("categorical", NormalNLL(), "NormalNLL"),
]


@pytest.mark.parametrize(("likelihood", "loss", "message"), REFUSED)
def test_compile_refuses(likelihood, loss, message):
    with pytest.raises(ValueError, match=message):
        model(likelihood).compile("sgd", loss)


def test_several_losses_are_checked_against_their_outputs():
    inputs = keras.Input((3,))
    a = keras.layers.Dense(3, "softmax", name="a")(inputs)
    b = keras.layers.Dense(3, "sigmoid", name="b")(inputs)

    def several(likelihood):
        return tfp_bayes.BayesianModel(inputs, [a, b], likelihood=likelihood, num_samples=1)

    right = {"b": "binary_crossentropy", "a": "sparse_categorical_crossentropy"}
    wrong = {"a": "binary_crossentropy", "b": "sparse_categorical_crossentropy"}
    likelihood = ["categorical", "bernoulli"]
    several(likelihood).compile("sgd", right)
    for loss in (wrong, list(wrong.values())):
        with pytest.raises(ValueError, match="negative log likelihood of likelihood="):
            several(likelihood).compile("sgd", loss)
    bad = several(likelihood)
    bad.compile("sgd", "binary_crossentropy")  # Keras uses it for both outputs
    with pytest.raises(ValueError, match="negative log likelihood of likelihood="):
        bad.fit(X, [np.ones((12, 3)), np.ones((12, 3))], verbose=0)
    # An output may have no loss.
    partial = several(likelihood)
    partial.compile("sgd", {"a": "sparse_categorical_crossentropy", "b": None})


def test_what_only_a_batch_shows_is_refused_before_a_step():
    bad = model()
    bad.compile("sgd", MeanOfAll())
    with pytest.raises(ValueError, match=r"one value for each observation.*MeanOfAll"):
        bad.fit(X, np.eye(2)[np.arange(12) % 2], verbose=0)
    bad = model("bernoulli", units=12)
    bad.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match=r"shape \(12,\)|shape \(12, 1\)"):
        bad.fit(X, np.ones(12), batch_size=12, verbose=0)
    bad.compile("sgd", "crossentropy")  # Keras resolves it to a loss of classes here
    with pytest.raises(ValueError, match="categorical_crossentropy"):
        bad.fit(X, np.ones((12, 12)), verbose=0)
    bad = model("bernoulli", units=3)
    bad.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match="`sample_weight`"):
        bad.fit(X, np.ones((12, 3)), sample_weight=np.ones((12, 3)), verbose=0)
    without = model()
    without.compile("sgd")
    with pytest.raises(ValueError, match="Expected a model compiled with a loss"):
        without.fit(X, np.ones(12), verbose=0)


def test_a_string_that_targets_explain():
    named = model()
    named.compile("sgd", "crossentropy")
    same = keras.models.clone_model(named)
    same.set_weights(named.get_weights())
    same.compile("sgd", "sparse_categorical_crossentropy")
    y = np.arange(12) % 2
    assert named.evaluate(X, y, verbose=0) == same.evaluate(X, y, verbose=0)


def test_metrics_of_regression_see_the_location():
    regression = model("normal", units=1)
    regression.compile(
        "sgd",
        NormalNLL(),
        metrics=["mse", keras.metrics.MeanAbsoluteError(), RootMeanSquaredError()],
        weighted_metrics=[keras.metrics.MeanSquaredError(name="weighted")],
    )
    y = RNG.normal(size=12).astype("float32")
    weight = RNG.uniform(size=12)
    error = regression.predict(X, verbose=0)[:, 0] - y
    expected = {
        "mse": (error**2).mean(),
        "mean_absolute_error": np.abs(error).mean(),
        "root_mean_squared_error": np.sqrt((error**2).mean()),
        "weighted": np.average(error**2, weights=weight),
    }
    for targets in (y, y[:, None]):
        results = regression.evaluate(X, targets, sample_weight=weight, verbose=0, return_dict=True)
        for name, value in expected.items():
            assert results[name] == pytest.approx(value, rel=1e-5), name
    history = regression.fit(X, y, verbose=0, validation_data=(X, y)).history
    assert {"mse", "val_mse", "val_root_mean_squared_error"} <= set(history)


def test_metrics_of_one_of_several_outputs():
    inputs = keras.Input((3,))
    a = keras.layers.Dense(2, "softmax", name="a")(inputs)
    b = NormalParameters(name="b")(keras.layers.Dense(2)(inputs))
    both = tfp_bayes.BayesianModel(
        inputs, {"b": b, "a": a}, likelihood={"a": "categorical", "b": "normal"}, num_samples=1
    )
    loss = {"a": "sparse_categorical_crossentropy", "b": NormalNLL()}
    both.compile("sgd", loss, metrics={"b": "mae", "a": "accuracy"})
    y = {"a": np.arange(12) % 2, "b": RNG.normal(size=12)}
    p = both(X)
    results = both.evaluate(X, y, verbose=0, return_dict=True)
    assert results["b_mae"] == pytest.approx(np.abs(p["b"][:, 0] - y["b"]).mean(), rel=1e-5)
    assert results["a_accuracy"] == pytest.approx((np.argmax(p["a"], 1) == y["a"]).mean())
    # Users unpack the two values.
    loss, a_loss, b_loss, *_ = both.evaluate(X, y, verbose=0)
    assert loss == pytest.approx((a_loss + b_loss) / 2, rel=1e-5)


def test_two_values_of_evaluate_and_a_loaded_model(tmp_path):
    classifier = model(prior_scale=1.0)
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    y = np.arange(12) % 2
    classifier.fit(X, y, verbose=0)
    loss, accuracy = classifier.evaluate(X, y, verbose=0)
    classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.evaluate(X, y, verbose=0) == [loss, accuracy]
    loaded.fit(X, y, verbose=0)
    assert tf.reduce_all(loaded.optimizer.iterations > 1)  # the optimizer's state was loaded
