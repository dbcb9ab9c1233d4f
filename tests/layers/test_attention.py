"""Tests of dropped attention weights and random projections against closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import Predictor, kl_divergence, layers, posteriors, priors
from tfp_bayes._plumbing.seeds import as_seed, fold_in

RNG = np.random.default_rng(0)
DRAWS = 4000
RANDOM = [
    layers.MultiHeadAttentionFlipout,
    layers.MultiHeadAttentionLocalReparameterization,
    layers.MultiHeadAttentionReparameterization,
]


def draws(layer, x, training, **arguments):
    """Return outputs (S, B, ...) of S = DRAWS calls."""

    def one(_):
        return layer(*x, training=training, **arguments)

    loop = tf.function(lambda: tf.map_fn(one, tf.range(DRAWS), tf.float32), autograph=False)
    return loop().numpy()


def check_moments(y, mean, variance):
    """Compare draws with their mean and variance, within the standard error of the draws."""
    squares = (y - mean) ** 2
    assert np.all(np.abs(y.mean(0) - mean) < 4.5 * np.sqrt(variance / DRAWS) + 1e-6)
    error = squares.std(0) / np.sqrt(DRAWS)
    assert np.all(np.abs(squares.mean(0) - variance) < 4.5 * error + 1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_dropped_attention_weights(training):
    """Outputs have the moments of masked attention.

    With scores of zero, each output is the mean of the masked values, which is linear in the mask.
    """
    rate, steps = 0.3, 4
    layer = layers.MCMultiHeadAttention(1, 3, dropout=rate, use_bias=False, seed=0)
    query, value = (RNG.normal(size=(2, n, 3)).astype("float32") for n in (5, steps))
    layer(query, value)
    layer.query_dense.set_weights([np.zeros((3, 1, 3))])
    rows = value @ layer.value_dense.kernel.numpy()[:, 0] @ layer.output_dense.kernel.numpy()[0]
    mean = np.repeat(rows.mean(1, keepdims=True), 5, axis=1)
    variance = np.repeat((rows**2).sum(1, keepdims=True), 5, axis=1) * rate / (1 - rate) / steps**2
    y = draws(layer, (query, value), training)
    check_moments(y, mean, variance)
    # The first queries of both examples share a mask at inference and are independent in training.
    product = (y - mean)[:, 0, 0] * (y - mean)[:, 1, 0]
    expected = 0 if training else (rows[0] * rows[1]).sum(0) * rate / (1 - rate) / steps**2
    assert np.all(np.abs(product.mean(0) - expected) < 4.5 * product.std(0) / np.sqrt(DRAWS))


# At inference the projections of all kinds share their draws, see `test_estimators.py`.
@pytest.mark.parametrize(
    ("kind", "training"),
    [(layers.MultiHeadAttentionReparameterization, False), *[(kind, True) for kind in RANDOM]],
)
def test_moments_of_random_projections(kind, training):
    """Outputs have the moments of y = x V O with independent V ~ N(m, s^2) and O ~ N(M, S^2).

    The only key gets all attention. E y = x m M and, with v = x V,
    Var y = sum_k (E v_k)^2 S_k^2 + Var(v_k) (M_k^2 + S_k^2).
    """
    wide = posteriors.MeanFieldNormal(initial_scale=0.2)
    layer = kind(2, 3, use_bias=False, kernel_posterior=wide, seed=0)
    query, value = (RNG.normal(size=(2, n, 4)).astype("float32") for n in (2, 1))
    layer(query, value)
    parts = []
    for dense, shape in ((layer.value_dense, (4, 6)), (layer.output_dense, (6, 4))):
        q = dense.random_kernel.distribution()
        parts += [np.reshape(q.mean(), shape), np.reshape(q.variance(), shape)]
    m, s2, M, S2 = parts
    x = np.repeat(value, 2, axis=1)
    mean_v, variance_v = x @ m, x**2 @ s2
    variance = mean_v**2 @ S2 + variance_v @ (M**2 + S2)
    check_moments(draws(layer, (query, value), training), x @ m @ M, variance)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [layers.MCMultiHeadAttention, *RANDOM])
def test_without_noise_it_is_the_keras_layer(kind, training):
    arguments = {"value_dim": 3, "output_shape": (5,), "attention_axes": (1,)}
    plain = keras.layers.MultiHeadAttention(2, 4, **arguments)
    point = {}
    if kind is not layers.MCMultiHeadAttention:
        point = {"kernel_prior": None, "kernel_posterior": "deterministic"}
    layer = kind(2, 4, **arguments, **point)
    query, value = (RNG.normal(size=(2, n, 6)).astype("float32") for n in (3, 4))
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)[:, None]
    for arguments in (
        {"attention_mask": mask},
        {"use_causal_mask": True},
        {"key": 2 * value, "return_attention_scores": True},
    ):
        layer(query, value, training=training), plain(query, value)
        weights = [w for w in layer.weights if not w.name.endswith("kl_weight")]
        for a, b in zip(weights, plain.get_weights(), strict=True):
            a.assign(b)
        for a, b in zip(
            keras.tree.flatten(layer(query, value, training=training, **arguments)),
            keras.tree.flatten(plain(query, value, **arguments)),
        ):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_double_precision_is_kept():
    x = np.linspace(-1, 1, 12).reshape(1, 3, 4)
    layer = layers.MCMultiHeadAttention(2, 3, dropout=1e-15, dtype="float64")  # drops nothing
    plain = keras.layers.MultiHeadAttention(2, 3, dtype="float64")
    layer(x, x), plain(x, x)
    layer.set_weights(plain.get_weights())
    np.testing.assert_allclose(layer(x, x), plain(x, x), rtol=1e-12)


@pytest.mark.parametrize("kind", RANDOM)
def test_projections_have_noise_of_their_own_and_nothing_else_is_left(kind):
    layer = kind(2, 3, seed=5)
    x = RNG.normal(size=(2, 3, 6)).astype("float32")
    layer(x, x)
    parts = layers.variational_layers(layer)
    assert [part.name for part in parts] == ["query", "key", "value", "attention_output"]
    assert [type(part) for part in parts] == [layer.projection] * 4
    assert {weight.path.split("/")[-2] for weight in layer.weights} == {p.name for p in parts}
    draws = [part.draw_weights(part.draw_seed())["kernel"] for part in parts[:3]]
    noise = [(d.value - d.distribution.loc) / d.distribution.stddev() for d in draws]
    correlation = np.corrcoef([np.ravel(each) for each in noise])
    assert np.abs(correlation - np.eye(3)).max() < 0.7  # four standard errors


def test_the_prior_is_that_of_each_projection_also_after_loading():
    layer = layers.MultiHeadAttentionFlipout(2, 3, kernel_prior=priors.Normal(0.5, 2.0), seed=5)
    copy = type(layer).from_config(layer.get_config())
    x = np.ones((2, 3, 6), "float32")
    layer(x, x), copy(x, x)
    copy.set_weights(layer.get_weights())
    expected = 0.0
    for part in layers.variational_layers(layer):
        q = part.random_kernel.distribution()
        m, s = (np.asarray(each, "float64") for each in (q.loc, q.scale))
        expected += np.sum(np.log(2 / s) + (s**2 + (m - 0.5) ** 2) / 8 - 0.5)
    for each in (layer, copy):
        assert float(kl_divergence(each)) == pytest.approx(expected, rel=1e-5)


def test_gates_are_random_too():
    layer = layers.MultiHeadAttentionFlipout(2, 3, use_gate=True)
    x = RNG.normal(size=(2, 3, 6)).astype("float32")
    layer(x, x)
    names = [part.name for part in layers.variational_layers(layer)]
    assert names == ["query", "key", "gate", "value", "attention_output"]


@pytest.mark.parametrize("kind", [keras.layers.MultiHeadAttention, layers.MCMultiHeadAttention])
def test_every_sample_sees_the_padding(kind):
    """The padding mask applies in every sample.

    Attention removes the mask from the words, which all samples share, so it must be set again.
    """
    rate = {"dropout": 0.2} if kind is layers.MCMultiHeadAttention else {}
    source, target = (keras.Input((None, 3)) for _ in range(2))
    query = layers.MCDropout(0.3, seed=1)(target)
    x = kind(2, 4, seed=2, **rate)(query, keras.layers.Masking()(source))
    model = keras.Model([source, target], keras.layers.Dense(2, activation="softmax")(x))
    rows = [RNG.normal(size=(4, n, 3)).astype("float32") for n in (5, 2)]
    rows[0][1:, 2:] = 0
    samples = Predictor(model).sample(rows, 3, seed=3)
    for s in range(3):
        states = [
            (each.seed_generator.state, tf.cast(fold_in(fold_in(as_seed(3), s), i), "int64"))
            for i, each in enumerate(layers.stochastic_layers(model))
        ]
        with keras.StatelessScope(states):
            expected = model([tf.constant(each) for each in rows], training=False)
        np.testing.assert_allclose(samples[s], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (layers.MCMultiHeadAttention, {"dropout": 0.3}),
        (layers.MultiHeadAttentionFlipout, {"dropout": 0.3}),
    ],
)
def test_the_predictor_gives_one_function_a_sample(kind, arguments, tmp_path):
    """Samples of a transformer on padded words do not depend on the batch size or on saving."""
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(9, 8, mask_zero=True)(inputs)
    x = keras.layers.LayerNormalization()(x + kind(2, 4, **arguments)(x, x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    words = RNG.integers(0, 9, (7, 6)).astype("int32")
    words[:, 0] = 1
    predictor = Predictor(model)
    samples = predictor.sample(words, 4, seed=3)
    assert samples.std(0).min() > 0
    for size in (1, 3):
        np.testing.assert_array_equal(samples, predictor.sample(words, 4, seed=3, batch_size=size))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(samples, Predictor(loaded).sample(words, 4, seed=3))
