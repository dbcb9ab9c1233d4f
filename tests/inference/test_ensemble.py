"""Tests that an ensemble's samples are exactly its members, including all of their state."""

import keras
import numpy as np
import pytest
from networks import mlp, vectors

from tfp_bayes import Ensemble, Predictor
from tfp_bayes.layers import BayesianLinear

X = vectors()


def plain(activation="tanh", units=8, dtype=None):
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(units, activation, dtype=dtype),
            keras.layers.Dense(3, "softmax"),
        ]
    )


def batch_normalized(seed):
    """Build a network with batch statistics, shared and frozen layers, and a skip connection."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    shared = keras.layers.Dense(5, "relu")
    x = keras.layers.BatchNormalization()(shared(inputs))
    x = keras.layers.BatchNormalization(trainable=False)(shared(x)) + inputs
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 2, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def closed_form(seed):
    inputs = keras.Input((5,))
    head = BayesianLinear(2, noise_scale=0.1, include_noise=True, seed=0)
    model = keras.Model(inputs, head(inputs))
    head.condition(vectors(40, seed=seed), vectors(40, 2, seed=seed + 9))
    return model


def test_samples_are_the_members():
    members = [plain() for _ in range(3)]
    predictor = Predictor(members[0], posterior=Ensemble(members))
    p = predictor.predict_uncertainty(X, return_samples=True)
    assert len(p.samples) == 3  # without num_samples, each member once
    for sample, member in zip(p.samples, members):
        np.testing.assert_allclose(sample, member(X), atol=1e-6)


def test_statistics_of_batch_normalization_belong_to_the_member():
    members = [batch_normalized(seed) for seed in range(3)]
    samples = Predictor(members[1], posterior=Ensemble(members, model=members[1])).sample(X)
    for sample, member in zip(samples, members):
        np.testing.assert_array_equal(sample, Predictor(member).sample(X, 1)[0])
        np.testing.assert_allclose(sample, member(X, training=False), atol=1e-6)
    assert np.abs(samples[0] - samples[1]).max() > 0.01


def test_closed_form_heads_are_sampled_in_turn():
    members = [closed_form(seed) for seed in range(2)]
    predictor = Predictor(members[0], "normal", Ensemble(members))
    samples = predictor.sample(X, 6, seed=3)
    alone = [Predictor(member, "normal").sample(X, 6, seed=3) for member in members]
    for s in range(6):
        np.testing.assert_allclose(samples[s], alone[s % 2][s], atol=1e-5)


def test_layer_noise_and_weight_noise_compose():
    members = [mlp(), mlp()]
    samples = Predictor(members[0], posterior=Ensemble(members)).sample(X, 6, seed=3)
    assert len(np.unique(samples[:, 0], axis=0)) == 6
    # Sample s has the same noise as sample s of the member on its own.
    alone = [Predictor(member).sample(X, 6, seed=3) for member in members]
    for s in range(6):
        np.testing.assert_allclose(samples[s], alone[s % 2][s], atol=1e-6)


def test_numbers_that_would_not_count_members_alike_are_refused():
    members = [plain(), plain()]
    predictor = Predictor(members[0], posterior=Ensemble(members))
    for num_samples in (1, 3, 4):
        with pytest.raises(ValueError, match=f"the posterior's 2 draws.*={num_samples}"):
            predictor.predict_uncertainty(X, num_samples)
    noisy = [mlp(), mlp()]
    predictor = Predictor(noisy[0], posterior=Ensemble(noisy))
    assert len(predictor.sample(X)) == 2
    with pytest.raises(ValueError, match="a multiple of the posterior's 2 draws"):
        predictor.predict_uncertainty(X, 3)


def test_leaves_the_weights_alone():
    members = [batch_normalized(0), batch_normalized(1)]
    before = members[0].get_weights()
    Predictor(members[0], posterior=Ensemble(members)).predict(X)
    for a, b in zip(before, members[0].get_weights()):
        np.testing.assert_array_equal(a, b)


def test_takes_lists_of_weights():
    members = [batch_normalized(0), batch_normalized(1)]
    expected = Predictor(members[0], posterior=Ensemble(members)).predict(X)
    lists = Ensemble([member.get_weights() for member in members], model=members[0])
    np.testing.assert_array_equal(Predictor(members[0], posterior=lists).predict(X), expected)


def test_refuses_members_that_differ():
    with pytest.raises(ValueError, match=r"differ in .*units: 5 and 6"):
        Ensemble([plain(units=5), plain(units=6)])
    with pytest.raises(ValueError, match=r'differ in .*"tanh" and "relu"'):
        Ensemble([plain("tanh"), plain("relu")])  # although the shapes of the weights are equal
    with pytest.raises(ValueError, match=r"differ in .*rate: 0.1 and 0.2"):
        Ensemble([mlp(rate=0.1), mlp(rate=0.2)])
    with pytest.raises(ValueError, match=r'differ in .*"float32" and "mixed_float16"'):
        Ensemble([plain(), plain(dtype="mixed_float16")])
    with pytest.raises(ValueError, match="0 members"):
        Ensemble([])
    model = plain()
    with pytest.raises(ValueError, match="member 0 with"):
        Ensemble([model.get_weights()[:2]], model=model)


def test_refuses_members_that_were_adapted_to_other_data():
    def scaled(offset):
        layer = keras.layers.Normalization()
        layer.adapt(vectors(30) + offset)
        return keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(3, "softmax")])

    Ensemble([scaled(1), scaled(1)])
    with pytest.raises(ValueError, match=r"differ in .*state.mean"):
        Ensemble([scaled(1), scaled(2)])

    def text(words):
        inputs = keras.Input((2,), dtype="string")
        x = keras.layers.StringLookup(vocabulary=words, output_mode="multi_hot")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))

    with pytest.raises(ValueError, match=r"differ in .*vocabulary"):
        Ensemble([text(["a", "b"]), text(["b", "a"])])


def test_refuses_a_posterior_of_another_model():
    with pytest.raises(ValueError, match=r"4 of its 4 variables.*Ensemble\(members, model=model"):
        Predictor(plain(), posterior=Ensemble([plain(), plain()]))
    with pytest.raises(ValueError, match="`num_draws`"):
        Predictor(plain(), posterior=object())
