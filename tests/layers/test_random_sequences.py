"""Tests of random embedding tables and of random weights of recurrent layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import Predictor, layers, posteriors
from tfp_bayes._plumbing.keras_internals import cell_with_weights
from tfp_bayes._plumbing.seeds import fold_in

RNG = np.random.default_rng(0)
DRAWS = 4000
PAIRS = [
    (layers.LSTMReparameterization, keras.layers.LSTM),
    (layers.GRUReparameterization, keras.layers.GRU),
]
FULL_BIAS = {"bias_prior": "normal", "bias_posterior": "mean_field_normal"}


def spread(layer):
    """Give each weight a random mean and scale."""
    for variable in layer.trainable_variables:
        low, high = (-0.3, -0.1) if "untransformed_scale" in variable.name else (-1, 1)
        variable.assign(RNG.uniform(low, high, variable.shape))


def draws(layer, x, training, **arguments):
    """Return outputs (S, B, ...) of S = DRAWS calls."""

    def one(_):
        return layer(x, training=training, **arguments)

    loop = tf.function(lambda: tf.map_fn(one, tf.range(DRAWS), tf.float32), autograph=False)
    return loop().numpy()


def check_moments(y, mean, covariance):
    """Compare normal draws (S, P) with their mean (P,) and covariance (P, P)."""
    deviations = y - mean
    variance = np.diag(covariance)
    assert np.all(np.abs(deviations.mean(0)) < 4.5 * np.sqrt(variance / DRAWS) + 1e-6)
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / DRAWS)
    sample = deviations.T @ deviations / DRAWS
    assert np.all(np.abs(sample - covariance) < 5 * error + 1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_moments_of_a_random_table(training):
    """A word has the same vector at every position, and different words are independent."""
    layer = layers.EmbeddingReparameterization(6, 2, seed=0)
    words = np.array([[1, 2, 1], [2, 5, 0]])
    layer(words)
    spread(layer)
    mean = layer.embeddings_loc.numpy()
    variance = layer.random_embeddings.distribution().variance().numpy()
    same = (words.ravel()[:, None] == words.ravel()).astype(float)
    covariance = np.einsum("pq,pd,de->pdqe", same, variance[words.ravel()], np.eye(2))
    check_moments(
        draws(layer, words, training).reshape(DRAWS, -1),
        mean[words].ravel(),
        covariance.reshape(12, 12),
    )


@pytest.mark.parametrize("training", [False, True])
def test_moments_of_one_step(training):
    """One step with gates of weight zero, sigmoid(0) = 1/2, is h = (x K + h0 R + b) / 4."""
    layer = layers.LSTMReparameterization(
        2, activation="linear", unit_forget_bias=False, seed=0, **FULL_BIAS
    )
    x, state = RNG.normal(size=(2, 1, 3)), RNG.normal(size=(2, 2))
    layer.build(x.shape)
    spread(layer)
    gates = np.r_[0:4, 6:8]
    for name in layer.beliefs:
        for part, value in (("loc", 0.0), ("untransformed_scale", -1e4)):
            variable = getattr(layer, f"{name}_{part}")
            array = variable.numpy()
            array[..., gates] = value
            variable.assign(array)
    rows = np.concatenate([x[:, 0], state, np.ones((2, 1))], axis=1)  # for the stacked weights
    means, variances = (
        np.concatenate([np.atleast_2d(f(w))[:, 4:6] for w in layer.random_weights.values()], axis=0)
        for f in (lambda w: w.mean(), lambda w: w.distribution().variance())
    )
    covariance = np.einsum("aw,bw,wu,uv->aubv", rows, rows, variances, np.eye(2)) / 16
    y = draws(layer, tf.cast(x, "float32"), training, initial_state=cast(state, 0 * state))
    check_moments(y.reshape(DRAWS, -1), (rows @ means / 4).ravel(), covariance.reshape(4, 4))


def cast(*arrays):
    return [tf.cast(each, "float32") for each in arrays]


@pytest.mark.parametrize(("kind", "keras_kind"), PAIRS)
@pytest.mark.parametrize("training", [False, True])
def test_all_steps_see_one_draw(kind, keras_kind, training):
    """Outputs and gradients with respect to the means are those of Keras at the drawn weights."""
    arguments = {
        "go_backwards": True,
        "return_sequences": True,
        "return_state": True,
        "zero_output_for_mask": True,
    }
    layer, plain = kind(3, seed=0, **FULL_BIAS, **arguments), keras_kind(3, **arguments)
    x = tf.constant(RNG.normal(size=(3, 5, 2)), tf.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1]], bool)
    layer(x), plain(x)
    spread(layer)
    state = layer.seed_generator.state.numpy().copy()
    drawn = layer.draw_weights(layer.draw_seed())
    plain.set_weights([d.value for d in drawn.values()])
    layer.seed_generator.state.assign(state)

    @tf.function
    def run(layer, training):
        with tf.GradientTape() as tape:
            outputs = layer(x, mask=mask, training=training)
            loss = sum(tf.reduce_sum(tf.square(each)) for each in outputs)
        return outputs, tape.gradient(loss, layer.trainable_variables[: 3 if layer is plain else 6])

    outputs, gradients = run(layer, training)
    expected, plain_gradients = run(plain, False)
    for a, b in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(gradients[::2], plain_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert layer.cell.kernel is layer.cell.recurrent_kernel is layer.cell.bias is None


@pytest.mark.parametrize(("kind", "keras_kind"), PAIRS)
def test_weights_start_as_in_keras(kind, keras_kind):
    """Shapes and initial values are those of Keras, including the bias of the forget gate."""
    for arguments in ({}, {"use_bias": False}):
        shared = {
            "kernel_initializer": keras.initializers.GlorotUniform(0),
            "recurrent_initializer": keras.initializers.Orthogonal(seed=0),
            **arguments,
        }
        layer, plain = kind(3, **shared), keras_kind(3, **shared)
        layer.build((None, None, 2)), plain.build((None, None, 2))
        for weight, expected in zip(
            layer.random_weights.values(), plain.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(weight.variables["loc"], expected)
        assert layer.cell.weights == []


@pytest.mark.parametrize("kind", [kind for kind, _ in PAIRS])
def test_kl_is_that_of_both_kernels_once_for_a_sequence(kind):
    layer = kind(3, seed=0)
    x = RNG.normal(size=(2, 7, 2))
    layer(x)
    spread(layer)
    layer.kl_weight.assign(1.0)
    expected = 0.0
    for weight in (layer.random_kernel, layer.random_recurrent_kernel):
        q = weight.distribution()
        m, s = np.asarray(q.mean(), "float64"), np.asarray(q.stddev(), "float64")
        expected += 0.5 * (s**2 + m**2 - 1 - np.log(s**2)).sum()  # KL(N(m, s^2) || N(0, 1))
    layer(x, training=True)
    (loss,) = layer.losses
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_dropout_of_the_cell_acts_in_training_only():
    layer = layers.GRUReparameterization(
        8,
        dropout=0.5,
        kernel_posterior="deterministic",
        seed=0,
        kernel_prior=None,
        recurrent_kernel_posterior="deterministic",
        recurrent_kernel_prior=None,
    )
    x = RNG.normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_array_equal(layer(x), layer(x))
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))


def test_the_predictor_gives_one_function_a_sample(tmp_path):
    """Samples of a bidirectional model of padded words are bit-equal for any batch size."""
    wide = posteriors.MeanFieldNormal(initial_scale=0.3)
    inputs = keras.Input((None,), dtype="int32")
    x = layers.EmbeddingReparameterization(9, 4, mask_zero=True, embeddings_posterior=wide)(inputs)
    x = keras.layers.Bidirectional(layers.LSTMReparameterization(3, kernel_posterior=wide))(x)
    model = keras.Model(inputs, layers.DenseFlipout(3, activation="softmax")(x))
    words = RNG.integers(0, 9, (7, 5)).astype("int32")
    predictor = Predictor(model)
    samples = predictor.sample(words, 4, seed=3)
    assert samples.std(0).min() > 0
    for size in (1, 3):
        np.testing.assert_array_equal(samples, predictor.sample(words, 4, seed=3, batch_size=size))
    stochastic = layers.stochastic_layers(model)
    states = [
        (each.seed_generator.state, tf.cast(fold_in(fold_in([3, 0], 2), i), "int64"))
        for i, each in enumerate(stochastic)
    ]
    with keras.StatelessScope(states):
        np.testing.assert_allclose(model(words, training=False), samples[2], atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(samples, Predictor(loaded).sample(words, 4, seed=3))


def test_a_cell_forgets_its_weights_after_an_error():
    cell = keras.layers.GRUCell(2)
    with pytest.raises(RuntimeError), cell_with_weights(cell, kernel=tf.zeros((2, 6))):
        raise RuntimeError
    assert cell.kernel is None
