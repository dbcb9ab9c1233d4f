"""Tests of the conversion of sequence layers, and back."""

import keras
import numpy as np
import pytest

from tfp_bayes import layers, priors, to_bayesian, to_deterministic

L = keras.layers
KERNELS = ("embeddings", "kernel", "recurrent_kernel")
RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 12, (6, 5)).astype("int32")
WORDS[:, 0] = 3  # leading padding would hide words from backward layers


def text_model():
    """Embeddings, recurrent layers with and without dropout, a wrapper and a frozen layer."""
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(12, 4, mask_zero=True, name="words")(inputs)
    x = L.LSTM(4, return_sequences=True, dropout=0.2, recurrent_dropout=0.1, name="lstm")(x)
    x = L.GRU(4, return_sequences=True, use_bias=False, name="plain")(x)
    both = L.Bidirectional(
        L.LSTM(3, dropout=0.3, return_sequences=True, name="inner"), merge_mode="sum", name="both"
    )
    x = both(x)
    gru = L.GRU(3, dropout=0.25, go_backwards=True, zero_output_for_mask=True, name="gru")
    gru.trainable = False
    outputs = L.Dense(3, activation="softmax", name="out")(gru(x))
    model = keras.Model(inputs, outputs)
    model.set_weights([RNG.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def kinds(model):
    return {layer.name: type(layer).__name__ for layer in model.layers[1:]}


def check_same(a, b):
    """Assert that two models have equal configurations and weights."""
    assert [each.get_config() for each in a.layers[1:]] == [
        each.get_config() for each in b.layers[1:]
    ]
    for v, w in zip(a.weights, b.weights, strict=True):
        assert (v.path.split("/")[-2:], v.trainable) == (w.path.split("/")[-2:], w.trainable)
        np.testing.assert_array_equal(v, w)
    np.testing.assert_array_equal(a(WORDS), b(WORDS))


def test_dropout_inside_recurrent_layers_stays_on(capsys, tmp_path):
    model = text_model()
    bayesian = to_bayesian(model, "mc_dropout")
    assert capsys.readouterr().out == (
        "Converted to mc_dropout: Bidirectional 1, GRU 1, LSTM 1. "
        "Other layers with weights: Dense 1, Embedding 1, GRU 1.\n"
    )
    assert kinds(bayesian) == {
        **kinds(model),
        "lstm": "MCLSTM",
        "gru": "MCGRU",
    }
    both = bayesian.get_layer("both")
    assert type(both.forward_layer) is type(both.backward_layer) is layers.MCLSTM
    rates = [(each.dropout, each.recurrent_dropout) for each in layers.stochastic_layers(bayesian)]
    assert rates == [(0.2, 0.1), (0.3, 0.0), (0.3, 0.0), (0.25, 0.0)]
    samples = bayesian.sample(WORDS, 4, seed=0)
    assert samples.std(0).min() > 0
    for size in (1, 4):
        np.testing.assert_array_equal(samples, bayesian.sample(WORDS, 4, seed=0, batch_size=size))
    bayesian.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(samples, loaded.sample(WORDS, 4, seed=0))
    for each in (bayesian, loaded):
        check_same(to_deterministic(each), model)


def test_dropout_forced_by_training_true_is_off_again():
    inputs = keras.Input((5, 2))
    x = L.LSTM(3, dropout=0.5)(inputs, training=True)
    back = to_deterministic(keras.Model(inputs, x))
    x = RNG.normal(size=(2, 5, 2))
    np.testing.assert_array_equal(back(x), back(x))


@pytest.mark.parametrize("inference", ["flipout", "local_reparameterization", "reparameterization"])
def test_weights_of_sequence_layers_become_random(inference, tmp_path):
    model = text_model()
    prior = priors.Normal(0, 0.5)
    bayesian = to_bayesian(model, inference, prior=prior, moped_delta=0.2, verbose=False)
    assert kinds(bayesian) == {
        "words": "EmbeddingReparameterization",
        "lstm": "LSTMReparameterization",
        "plain": "GRUReparameterization",
        "both": "Bidirectional",
        "gru": "GRUReparameterization",
        "out": kinds(bayesian)["out"],
    }
    random = layers.variational_layers(bayesian)
    assert len(random) == 7
    scale = random[0].random_embeddings.distribution().stddev()
    np.testing.assert_allclose(scale, 0.2 * np.abs(random[0].embeddings_loc), rtol=1e-3)
    assert random[1].dropout == 0.2
    found = [getattr(each, f"{name}_prior", None) for each in random for name in KERNELS]
    assert [each.scale for each in found if each is not None] == [0.5] * 12
    if inference == "flipout":  # the other inferences share its classes
        assert bayesian.sample(WORDS, 3, seed=0).std(0).min() > 0
        bayesian.save(tmp_path / "model.keras")
        bayesian = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    check_same(to_deterministic(bayesian), model)


def test_a_bayesian_text_classifier_learns():
    """A classifier of two kinds of words separates them after a few epochs."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32")
    x = L.LSTM(8)(L.Embedding(12, 8, mask_zero=True)(inputs))
    model = keras.Model(inputs, L.Dense(2, activation="softmax")(x))
    words = np.random.default_rng(1).integers(1, 12, (256, 5))
    labels = ((words < 6).sum(1) > 2).astype(int)
    bayesian = to_bayesian(model, "flipout", num_samples=10, verbose=False)
    bayesian.compile(
        keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    history = bayesian.fit(words, labels, epochs=25, batch_size=32, verbose=0).history
    assert bayesian.evaluate(words, labels, verbose=0, return_dict=True)["accuracy"] > 0.9
    assert history["kl"][-1] < history["kl"][0]


def test_dropped_words_come_back():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.MCEmbedding(12, 4, rate=0.3, mask_zero=True, name="words")(inputs)
    model = keras.Model(inputs, L.GlobalAveragePooling1D()(x))
    back = to_deterministic(model).get_layer("words")
    assert type(back) is L.Embedding
    assert back.mask_zero
    np.testing.assert_array_equal(back.embeddings, model.get_layer("words").embeddings)


def test_a_stateful_layer_is_refused_by_name():
    inputs = keras.Input(batch_shape=(6, 5, 2))
    model = keras.Model(inputs, L.LSTM(3, dropout=0.5, stateful=True, name="remembers")(inputs))
    with pytest.raises(ValueError, match="stateful=False for 'remembers'"):
        to_bayesian(model, "mc_dropout", verbose=False)


def attention_model():
    """Attention with and without dropout, and a projection over several axes."""
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(12, 4, mask_zero=True, name="words")(inputs)
    x = L.MultiHeadAttention(2, 3, dropout=0.2, name="first")(x, x, use_causal_mask=True)
    second = L.MultiHeadAttention(1, 4, value_dim=2, use_bias=False, name="second")
    second.trainable = False
    x = x + second(query=x, value=x, key=x)
    x = L.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="e", name="einsum")(x)
    outputs = L.Dense(3, activation="softmax", name="out")(L.Flatten(name="flat")(x))
    model = keras.Model(inputs, outputs)
    model.set_weights([RNG.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("inference", "first", "second"),
    [
        ("mc_dropout", "MCMultiHeadAttention", "MultiHeadAttention"),
        ("flipout", *["MultiHeadAttentionFlipout"] * 2),
        ("local_reparameterization", *["MultiHeadAttentionLocalReparameterization"] * 2),
        ("reparameterization", *["MultiHeadAttentionReparameterization"] * 2),
    ],
)
def test_attention_and_back(inference, first, second, tmp_path):
    model = attention_model()
    bayesian = to_bayesian(model, inference, verbose=False)
    assert [kinds(bayesian)[name] for name in ("first", "second")] == [first, second]
    assert bayesian.get_layer("first").dropout == 0.2
    if inference in ("mc_dropout", "flipout"):  # the other inferences share their code
        assert bayesian.sample(WORDS, 3, seed=0).std(0).min() > 0
        bayesian.save(tmp_path / "model.keras")
        bayesian = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    check_same(to_deterministic(bayesian), model)
