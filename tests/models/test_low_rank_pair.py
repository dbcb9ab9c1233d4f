"""Tests of the conversion to frozen networks with low-rank updates, and back."""

import keras
import numpy as np
import pytest

from tfp_bayes import layers, to_bayesian, to_deterministic
from tfp_bayes._plumbing.fresh import initialize
from tfp_bayes._plumbing.keras_internals import flatten_layers

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4, 6)).astype("float32")
Y = RNG.integers(0, 3, (12, 1))


def transformer():
    """All layers with updates, normalization, a skip, a nested model and dropout."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 6))
    x = L.Dense(6, "relu", kernel_regularizer="l2", name="dense")(inputs)
    x = L.LayerNormalization(name="norm")(x)
    x = x + L.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = L.EinsumDense("abc,cd->abd", (4, 6), bias_axes="d", name="einsum")(x)
    x = L.BatchNormalization(name="batch")(x)
    nested = [keras.Input((4, 6)), L.Dense(5, "tanh", name="inner"), L.Dropout(0.2)]
    x = keras.Sequential(nested, name="nested")(x)
    outputs = L.Dense(3, "softmax", name="out")(L.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs)


def frozen_weights(model):
    """All weights except those of the updates."""
    return {v.path: v.numpy() for v in model.weights if "lora_" not in v.path}


@pytest.mark.parametrize("flag", [True, False])
def test_updates_are_all_that_is_trained(flag):
    model = transformer()
    model.trainable = model.get_layer("nested").trainable = flag  # pretrained ones are often frozen
    expected = model(X, training=False)
    bayesian = to_bayesian(model, "lora", rank=4, num_samples=2, verbose=False)
    np.testing.assert_array_equal(bayesian(X, training=False), expected)
    parts = {v.path.rpartition("/")[0][-6:] for v in bayesian.trainable_variables}
    assert parts == {"lora_a", "lora_b"}
    assert len(bayesian.trainable_variables) == 3 * 8  # four layers, four projections
    assert bayesian.get_layer("out").rank == 3  # its kernel has a smaller side
    prior = bayesian.get_layer("dense").lora_a.kernel_prior
    assert prior.get_config() == {"loc": 0, "scale": 0.2}


def test_fit_merge_and_load(tmp_path):
    keras.utils.set_random_seed(1)  # every input activates some units
    model = classifier()
    bayesian = to_bayesian(model, "lora", rank=2, num_samples=2, verbose=False)
    before = frozen_weights(bayesian)
    bayesian.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    x = X[:, 0]
    bayesian.fit(x, Y, epochs=2, batch_size=6, verbose=0)
    after = frozen_weights(bayesian)
    for path in before:
        if "kl_weight" not in path:
            np.testing.assert_array_equal(before[path], after[path])
    assert bayesian.predict_uncertainty(x, 5, seed=0).mutual_information.min() > 0
    kl = sum(float(each.kl_divergence()) for each in layers.variational_layers(bayesian))
    np.testing.assert_allclose(bayesian.kl_divergence(), kl, rtol=1e-6)

    bayesian.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    back = to_deterministic(loaded)
    for each in layers.variational_layers(bayesian):
        each.kernel_untransformed_scale.assign(-1e4 * np.ones(each.kernel_loc.shape))
    mean = bayesian(x, training=False)
    assert np.abs(mean - model(x, training=False)).max() > 1e-3
    np.testing.assert_allclose(back(x), mean, rtol=1e-4, atol=1e-6)
    assert len(loaded.trainable_variables) == len(bayesian.trainable_variables)


def test_round_trip():
    model = transformer()
    back = to_deterministic(to_bayesian(model, "lora", rank=2, verbose=False))
    assert not [each for each in flatten_layers(back) if "LoRA" in type(each).__name__]
    for a, b in zip(model.layers, back.layers, strict=True):
        assert type(a) is type(b)
        flags = {"trainable", "layers"}
        configs = [{k: v for k, v in e.get_config().items() if k not in flags} for e in (a, b)]
        assert configs[0] == configs[1]
        for v, w in zip(a.get_weights(), b.get_weights(), strict=True):
            np.testing.assert_array_equal(v, w)


def classifier():
    inputs = keras.Input((6,))
    x = L.BatchNormalization()(L.Dense(5, "relu", name="first")(inputs))
    return keras.Model(inputs, L.Dense(3, "softmax", name="last")(x))


def test_updates_without_randomness():
    model = to_bayesian(classifier(), "lora", prior=None, rank=2, num_samples=1, verbose=False)
    first = model.get_layer("first")
    assert not layers.stochastic_layers(model)
    assert [v.path.split("/", 1)[1] for v in model.trainable_variables] == [
        *("lora_a/kernel", "lora_b/kernel"),
        *("lora_a/kernel", "lora_b/kernel"),
    ]
    before = first.base.get_weights()
    start = first.lora_a.get_weights()
    initialize(model, 5)  # as for members of an ensemble, which share the network
    for old, new in zip(before, first.base.get_weights()):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(start[0], first.lora_a.get_weights()[0])


def test_alpha_of_smaller_kernels():
    model = to_bayesian(classifier(), "lora", rank=4, alpha=2.0, verbose=False)
    assert [
        (each.rank, each.scaling) for each in (model.get_layer("first"), model.get_layer("last"))
    ] == [(4, 0.5), (3, 0.5)]


@pytest.mark.parametrize(("key_dim", "expected"), [(3, 4), (1, 2)])
def test_rank_of_attention_is_limited_by_its_projections_and_not_by_the_number_of_heads(
    key_dim, expected
):
    inputs = keras.Input((4, 6))
    x = L.MultiHeadAttention(2, key_dim, value_dim=3, name="attention")(inputs, inputs)
    outputs = L.Dense(3, "softmax")(L.GlobalAveragePooling1D()(x))
    model = to_bayesian(keras.Model(inputs, outputs), "lora", rank=4, verbose=False)
    attention = model.get_layer("attention")
    assert attention.get_config()["rank"] == expected
    ranks = {v.shape[-1] for v in attention.weights if v.path.endswith("lora_a/kernel_loc")}
    assert ranks == {expected}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "Received: rank=0"),
        ({"alpha": -1.0}, "Received: alpha=-1.0"),
        ({"moped_delta": 0.1}, "with random kernels under a prior only"),
        ({"inference": "flipout", "rank": 2}, "with inference='lora' only"),
        ({"inference": "lorax"}, "'lora'.*Received: inference='lorax'"),
        ({"layers": ["nothing"]}, "no such layer"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_bayesian(classifier(), **{"inference": "lora", **arguments})


def test_refused_layers():
    inputs = keras.Input((6,))
    constrained = L.Dense(3, "softmax", kernel_constraint="non_neg", name="positive")
    with pytest.raises(ValueError, match="no `kernel_constraint` for layer 'positive'"):
        to_bayesian(keras.Model(inputs, constrained(inputs)), "lora")
    plain = keras.Model(inputs, L.Softmax()(L.BatchNormalization()(inputs)))
    with pytest.raises(ValueError, match="Dense, EinsumDense or MultiHeadAttention layers"):
        to_bayesian(plain, "lora")
