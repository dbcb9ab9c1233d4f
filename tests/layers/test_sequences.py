"""Tests of dropout of words and inside recurrent layers: masks, moments and skipped steps."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import Predictor, layers

RNG = np.random.default_rng(0)
DRAWS = 4000
PAIRS = [(layers.MCLSTM, keras.layers.LSTM), (layers.MCGRU, keras.layers.GRU)]


def sequences(rows=3, steps=4, features=2):
    return RNG.normal(size=(rows, steps, features)).astype("float32")


# Embeddings.


def test_a_word_is_kept_or_dropped_at_all_of_its_places():
    layer = layers.MCEmbedding(
        500, 2, rate=0.3, embeddings_initializer=keras.initializers.Constant(1.0), seed=0
    )
    words = np.tile(np.arange(500), (8, 2))
    for training in (False, True):
        kept = layer(words, training=training).numpy()
        np.testing.assert_array_equal(kept[:, :500], kept[:, 500:])
        np.testing.assert_array_equal(kept[..., 0], kept[..., 1])
        kept = kept[:, :500, 0]
        assert set(np.unique(kept)) == {0, np.float32(1 / 0.7)}
        examples = len(np.unique(kept, axis=0))
        assert examples == (8 if training else 1)
        n = 500 * examples
        assert abs(np.unique(kept, axis=0).mean() - 1) < 4 * np.sqrt(0.3 / 0.7 / n)
        variance = ((kept - 1) ** 2).mean()
        assert variance == pytest.approx(0.3 / 0.7, abs=4 * 0.72 * np.sqrt(1 / n))


def test_embeddings_keep_the_mask_of_padding_and_any_rank():
    layer = layers.MCEmbedding(5, 2, rate=0.5, mask_zero=True, seed=0)
    np.testing.assert_array_equal(layer.compute_mask(np.array([[1, 0]])), np.array([[True, False]]))
    for shape in ((4,), (4, 3), (4, 3, 2)):
        words = np.ones(shape, "uint8")
        for training in (False, True):
            assert layer(words, training=training).shape == (*shape, 2)
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, keras.layers.LSTM(2, activation="sigmoid")(layer(inputs)))
    padded, other = np.array([[1, 2, 0]]), np.array([[1, 2, 3]])
    samples = Predictor(model, likelihood="bernoulli").sample(np.r_[padded, other], 20, seed=0)
    assert np.any(samples[:, 0] != samples[:, 1])


def test_rate_zero_of_words_is_the_embedding():
    layer = layers.MCEmbedding(5, 2, rate=0.0)
    words = np.array([[1, 2]])
    np.testing.assert_array_equal(
        layer(words, training=True), keras.ops.take(layer.embeddings, words, axis=0)
    )


def test_negative_words_count_from_the_end():
    plain = keras.layers.Embedding(5, 2)
    words, counted = np.array([[-1, 2]]), np.array([[4, 2]])
    expected = plain(words)
    table = plain.get_weights()[0]
    dropped = layers.MCEmbedding(5, 2, rate=0.5, seed=0)
    random = layers.EmbeddingReparameterization(
        5, 2, embeddings_prior=None, embeddings_posterior="deterministic"
    )
    dropped(words), random(words)
    random.embeddings_loc.assign(table)
    np.testing.assert_array_equal(random(words), expected)
    for training in (False, True):
        state = dropped.seed_generator.state.numpy()
        first = dropped(words, training=training)
        dropped.seed_generator.state.assign(state)
        np.testing.assert_array_equal(first, dropped(counted, training=training))


# Recurrent layers.


@pytest.mark.parametrize(("kind", "keras_kind"), PAIRS)
@pytest.mark.parametrize("training", [False, True])
def test_one_step_against_an_enumeration_of_masks(kind, keras_kind, training):
    """Moments equal those over all masks of two inputs, which the gates share."""
    rate = 0.3
    layer, plain = kind(3, dropout=rate, seed=1), keras_kind(3)
    x = sequences(2, steps=3)
    layer(x), plain(x)
    plain.set_weights(layer.get_weights())
    masks = list(itertools.product([0, 1], repeat=2))
    weights = np.array([rate ** m.count(0) * (1 - rate) ** m.count(1) for m in masks])
    outputs = np.stack([plain(x * np.float32(m) / np.float32(1 - rate)) for m in masks])
    mean = np.einsum("m,mbu->bu", weights, outputs)
    second = np.einsum("m,mbu->bu", weights, (outputs - mean) ** 2)
    fourth = np.einsum("m,mbu->bu", weights, (outputs - mean) ** 4)
    y = draws(layer, x, training)
    assert np.all(np.abs(y.mean(0) - mean) < 4.5 * np.sqrt(second / DRAWS))
    error = np.sqrt((fourth - second**2) / DRAWS)
    assert np.all(np.abs(((y - mean) ** 2).mean(0) - second) < 4.5 * error + 1e-6)
    # Two examples share their masks at inference and are independent in training.
    together = np.einsum("m,mu,mv->uv", weights, *(outputs - mean).transpose(1, 0, 2))
    if training:
        together = np.zeros_like(together)
    spread = np.sqrt(np.outer(second[0], second[1]) * 2 / DRAWS)
    sample = np.einsum("su,sv->uv", *(y - mean).transpose(1, 0, 2)) / DRAWS
    assert np.all(np.abs(sample - together) < 6 * spread + 1e-6)


def draws(layer, x, training, **arguments):
    """Return outputs (S, B, units) of S = DRAWS calls."""

    def one(_):
        return layer(x, training=training, **arguments)

    loop = tf.function(lambda: tf.map_fn(one, tf.range(DRAWS), tf.float32), autograph=False)
    return loop().numpy()


@pytest.mark.parametrize("training", [False, True])
def test_the_recurrent_state_is_dropped_too(training):
    """One LSTM step from state h with constant gates is proportional to h R m / (1 - rate)."""
    rate = 0.25
    layer = layers.MCLSTM(3, recurrent_dropout=rate, activation="linear", use_bias=False, seed=0)
    x, h = np.zeros((2, 1, 2), "float32"), RNG.normal(size=(2, 3)).astype("float32")
    layer.build(x.shape)
    kernel, recurrent = layer.get_weights()
    recurrent[:, :6] = recurrent[:, 9:] = 0  # the gates are sigmoid(0) = 1/2
    layer.set_weights([kernel, recurrent])
    state = [tf.constant(h), tf.zeros((2, 3))]
    y = draws(layer, x, training, initial_state=state)
    mean = h @ recurrent[:, 6:9] / 4
    variance = h**2 @ recurrent[:, 6:9] ** 2 / 16 * rate / (1 - rate)
    assert np.all(np.abs(y.mean(0) - mean) < 4.5 * np.sqrt(variance / DRAWS))
    np.testing.assert_allclose(y.var(0), variance, rtol=0.15)


@pytest.mark.parametrize(("kind", "keras_kind"), PAIRS)
def test_masks_are_the_same_at_every_step(kind, keras_kind):
    """With one set of masks the layer equals the Keras layer on masked inputs at every step."""
    layer = kind(4, dropout=0.5, return_sequences=True, return_state=True, seed=0)
    plain = keras_kind(4, return_sequences=True, return_state=True)
    x = sequences(features=3)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], bool)
    layer(x), plain(x)
    plain.set_weights(layer.get_weights())
    outputs = [np.asarray(each) for each in layer(x, mask=mask)]
    candidates = [
        [np.asarray(each) for each in plain(x * 2 * np.float32(m), mask=mask)]
        for m in itertools.product([0, 1], repeat=3)
    ]
    close = [
        all(np.allclose(a, b, atol=1e-6) for a, b in zip(outputs, each, strict=True))
        for each in candidates
    ]
    assert sum(close) == 1


@pytest.mark.parametrize(("kind", "keras_kind"), PAIRS)
@pytest.mark.parametrize("training", [False, True])
def test_without_dropout_it_is_the_keras_layer(kind, keras_kind, training):
    arguments = {"go_backwards": True, "return_sequences": True, "zero_output_for_mask": True}
    layer, plain = kind(4, **arguments), keras_kind(4, **arguments)
    x, mask = sequences(), np.array([[1, 1, 1, 0]] * 3, bool)
    layer(x), plain(x)
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x, mask=mask, training=training), plain(x, mask=mask))


def test_keras_draws_no_mask_of_its_own():
    layer = layers.MCLSTM(4, dropout=0.5, recurrent_dropout=0.5, seed=0)
    x = sequences()
    before = layer.cell.seed_generator.state.numpy().copy()
    layer(x, training=True)
    layer(x)
    np.testing.assert_array_equal(layer.cell.seed_generator.state, before)


@pytest.mark.parametrize("kind", [layers.MCLSTM, layers.MCGRU])
def test_both_directions_in_the_predictor(kind, tmp_path):
    inputs = keras.Input((None, 2))
    recurrent = kind(3, dropout=0.3, recurrent_dropout=0.2)
    x = keras.layers.Bidirectional(recurrent)(keras.layers.Masking()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    x = sequences(rows=5)
    x[2:, 2:] = 0
    predictor = Predictor(model)
    samples = predictor.sample(x, 6, seed=1)
    assert samples.std(0).min() > 0
    for size in (1, 2, 4):
        np.testing.assert_array_equal(samples, predictor.sample(x, 6, seed=1, batch_size=size))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(samples, Predictor(loaded).sample(x, 6, seed=1))
