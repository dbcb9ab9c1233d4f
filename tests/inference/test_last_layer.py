"""Tests of the models and data that the Laplace approximation of the last layer accepts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import mlp, vectors

from tfp_bayes import LastLayerLaplace, Predictor

K, SIZE = 3, 40
X = vectors(SIZE)
Y = X[:, :K].argmax(1)


def network(**kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="x")
    x = keras.layers.Dense(4, "tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(K, "softmax", name="top", **kwargs)(x))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def expected(model):
    return LastLayerLaplace(model, X, Y)


def test_datasets_are_read_as_arrays(model, expected):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y[:, None])).batch(7)

    class Batches(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, i):
            return X[20 * i : 20 * i + 20], Y[20 * i : 20 * i + 20]

    assert LastLayerLaplace(model, X, list(Y)).prior_scale == expected.prior_scale
    for source in (dataset, Batches()):
        posterior = LastLayerLaplace(model, source)
        np.testing.assert_allclose(posterior.variances, expected.variances, rtol=1e-5)
        assert posterior.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-6)
        np.testing.assert_allclose(posterior.predict(source), expected.predict(X), atol=1e-5)
    for covariance in ("kronecker", "shared", "diagonal"):
        of_batches, of_arrays = (
            LastLayerLaplace(model, *data, covariance=covariance, prior_scale=1.0)
            for data in ((dataset,), (X, Y))
        )
        np.testing.assert_allclose(of_batches.variances, of_arrays.variances, rtol=1e-5)


def test_frozen_layers_have_a_posterior(expected):
    model = network()
    model.trainable = False
    posterior = LastLayerLaplace(model, X, Y)
    np.testing.assert_allclose(posterior.variances, expected.variances, rtol=1e-6)
    samples = Predictor(model, posterior=posterior).predict_uncertainty(X, 5, seed=0)
    assert samples.mutual_information.mean() > 0.01


@pytest.mark.parametrize("use_bias", [True, False])
def test_lora_is_part_of_the_kernel(use_bias):
    model, plain = network(use_bias=use_bias), network(use_bias=use_bias)
    top = model.get_layer("top")
    top.enable_lora(2)
    top.lora_kernel_b.assign(vectors(2, K, seed=1))
    weights = [np.asarray(top.kernel), *([np.asarray(top.bias)] if use_bias else [])]
    plain.get_layer("top").set_weights(weights)
    posterior, expected = (LastLayerLaplace(each, X, Y) for each in (model, plain))
    np.testing.assert_allclose(posterior.variances, expected.variances, rtol=1e-4)
    samples, others = (
        Predictor(m, posterior=p).sample(X, 3, seed=0)
        for m, p in ((model, posterior), (plain, expected))
    )
    np.testing.assert_allclose(samples, others, atol=1e-4)


def test_a_layer_of_two_models_is_the_end_of_one(model):
    features = keras.Input((4,))
    keras.Model(features, model.get_layer("top")(features))
    LastLayerLaplace(model, X, Y, prior_scale=1.0)


def test_rows_that_are_not_finite_are_named_or_nan(model, expected):
    x = X.copy()
    x[3, 1], x[17, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"`x`.*rows \[3, 17\]"):
        LastLayerLaplace(model, x, Y)
    with pytest.raises(ValueError, match=r"`validation_data`.*rows \[3, 17\]"):
        LastLayerLaplace(model, X, Y, validation_data=(x, Y))
    p = expected.predict(x)
    assert np.flatnonzero(np.isnan(p).any(1)).tolist() == [3, 17]
    np.testing.assert_allclose(np.delete(p, [3, 17], 0), np.delete(expected.predict(X), [3, 17], 0))


def test_models_that_were_trained_further_are_refused():
    model = network()
    posterior = LastLayerLaplace(model, X, Y, prior_scale=1.0)
    model.get_layer("top").bias.assign_add([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="after training"):
        posterior.predict(X)


def sequential(*layers, shape=(5,)):
    return keras.Sequential([keras.Input(shape), *layers])


def shared():
    dense, inputs = keras.layers.Dense(5, "softmax", name="shared"), keras.Input((5,))
    return keras.Model(inputs, dense(dense(inputs)))


def hidden_share():
    dense, inputs = keras.layers.Dense(5, "softmax", name="shared"), keras.Input((5,))
    return keras.Model(inputs, dense(keras.Sequential([keras.Input((5,)), dense])(inputs)))


def aside():
    """Build a model whose output does not come from the layer created last."""
    inputs = keras.Input((5,))
    logits = keras.layers.Dense(K)(inputs)
    softmax = keras.layers.Softmax(name="soft")
    keras.layers.Dense(K, "softmax")
    return keras.Model(inputs, softmax(logits))


def two_outputs():
    inputs = keras.Input((5,))
    return keras.Model(inputs, [keras.layers.Dense(K, "softmax")(inputs) for _ in range(2)])


def quantized():
    model = network()
    model.quantize("int8")
    return model


def diverged():
    model = network()
    model.get_layer("top").bias.assign([np.nan, 0.0, 0.0])
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.dense = keras.layers.Dense(K, "softmax")

    def call(self, x):
        return self.dense(x)


class Rectified(keras.layers.Dense):
    def call(self, x):
        return super().call(keras.ops.relu(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sequential(keras.layers.Dense(K, name="line")),
            "'line'.*'linear'.*into the Dense",
        ),
        (lambda: sequential(keras.layers.Dense(1, "sigmoid")), r"\[0, w\] and \[0, b\]"),
        (aside, "'soft' of type Softmax"),
        (lambda: sequential(network()), "of type Functional.*one graph"),
        (lambda: sequential(Rectified(K, activation="softmax")), "of type Rectified"),
        (two_outputs, "one output.*with 2"),
        (shared, "'shared', which is used more than once"),
        (hidden_share, "'shared', which is used more than once"),
        (
            lambda: sequential(keras.layers.Dense(K, "softmax", name="pixel"), shape=(4, 4, 5)),
            r"'pixel', which has outputs of shape \(None, 4, 4, 3\)",
        ),
        (lambda: sequential(keras.layers.Dense(1, "softmax")), "has one class"),
        (quantized, "'top', which is quantized to int8"),
        (diverged, "NaN or infinity in top/bias"),
        (mlp, "to_deterministic"),
        (Subclassed, "'own' of type Subclassed"),
        (keras.Sequential, "built functional or Sequential"),
    ],
)
def test_models_without_such_a_layer_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        LastLayerLaplace(make(), X, Y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, Y, "block"), "covariance='block'"),
        ((X, Y, "full", -1.0), "prior_scale=-1.0"),
        ((X, Y, "full", 1.0, (X, Y)), "leave one of them out"),
        ((X, Y, "full", None, (X, Y, X)), "`validation_data`. Received: 3 values"),
        ((X[0], list(Y[:5])), "lacks the axis of examples"),
        ((X, Y[:5]), r"\(40, 5\), \(5,\)"),
        ((X[:0], Y[:0]), "`x`. Received: none"),
        ((X,), "for `y`. Received: none"),
        ((X, Y + 1), "from 1 to 3"),
        ((X, np.eye(K)[Y]), r"float64 of shape \(40, 3\).*argmax"),
        ((X, np.eye(K, dtype=int)[Y]), r"int64 of shape \(40, 3\).*argmax"),
        ((X, Y.astype(str)), "for `y`. Received: object"),
        (
            (tf.data.Dataset.from_tensor_slices((X, Y, np.ones(SIZE))).batch(9),),
            "sample weights",
        ),
        ((tf.data.Dataset.from_tensor_slices(X).batch(9),), "for `y`. Received: none"),
        ((tf.data.Dataset.from_tensor_slices((X, Y)).repeat(),), "dataset.take"),
        ((tf.data.Dataset.from_tensor_slices((X, Y)).batch(9), Y), "its own targets"),
        ((tf.data.Dataset.from_tensor_slices((X, Y)).repeat(4).batch(9),), "repeats them 4 times"),
    ],
)
def test_data_that_do_not_fit_are_refused(arguments, message, model):
    with pytest.raises(ValueError, match=message):
        LastLayerLaplace(model, *arguments)
