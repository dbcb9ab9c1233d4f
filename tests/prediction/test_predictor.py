"""The predictor: its samples and streamed measures, the models it supports, and its errors."""

import itertools
import random

import keras
import layer_by_layer
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, images, mlp, small_cnn, vectors

from tfp_bayes import Predictor, uncertainty
from tfp_bayes.layers import (
    MCDropout,
    MCSpatialDropout2D,
    StochasticLayer,
    stochastic_layers,
)
from tfp_bayes.prediction.inputs import ROWS
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE

MEASURES = [
    "mean",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
    "mean_std",
    "epistemic_variance",
    "aleatoric_variance",
]
# The names of the same measures in `tfp_bayes.uncertainty`.
FROM_SAMPLES = {"mean": "predictive_mean"}


def assert_equal(a, b, rows=slice(None)):
    for name in MEASURES:
        np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name), err_msg=name)


# Samples and measures.


@pytest.mark.parametrize("num_samples", [1, 2, 30])
def test_streamed_measures_equal_those_of_the_samples(num_samples):
    predictor = Predictor(mlp())
    x = vectors(9)
    p = predictor.predict_uncertainty(x, num_samples, seed=0, return_samples=True)
    assert p.samples.shape == (num_samples, 9, 3)
    for name in MEASURES:
        measure = getattr(uncertainty, FROM_SAMPLES.get(name, name))
        np.testing.assert_allclose(getattr(p, name), measure(p.samples), atol=2e-6, err_msg=name)
    assert_equal(p, predictor.predict_uncertainty(x, num_samples, seed=0))
    np.testing.assert_array_equal(p.samples, predictor.sample(x, num_samples, seed=0))
    np.testing.assert_array_equal(p.mean, predictor.predict(x, num_samples, seed=0))


def test_moments_equal_enumeration_of_all_masks():
    """Dropout of 4 units gives 16 functions, whose exact mean and variance are known."""
    rate = 0.3
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Sequential([keras.Input((4,)), MCDropout(rate), dense])
    x = vectors(5, 4)
    kernel, bias = dense.get_weights()
    functions, weights = [], []
    for mask in itertools.product([0, 1], repeat=4):
        logits = (x * np.array(mask) / (1 - rate)) @ kernel + bias
        functions.append(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
        weights.append((1 - rate) ** sum(mask) * rate ** (4 - sum(mask)))
    functions, weights = np.array(functions), np.array(weights)[:, None, None]
    mean = (weights * functions).sum(0)
    variance = (weights * (functions - mean) ** 2).sum(0)
    fourth = (weights * (functions - mean) ** 4).sum(0)

    num_samples = 20_000
    p = Predictor(model).predict_uncertainty(x, num_samples, seed=0)
    assert np.all(np.abs(p.mean - mean) < 4 * np.sqrt(variance / num_samples))
    spread = np.sqrt((fourth - variance**2) / num_samples)
    assert np.all(np.abs(p.epistemic_variance - variance) < 4 * spread)


def test_sample_is_one_function_for_all_rows():
    x = np.repeat(vectors(1), 7, axis=0)
    samples = Predictor(mlp()).sample(x, 5, seed=0)
    np.testing.assert_array_equal(samples, np.repeat(samples[:, :1], 7, axis=1))
    assert len(np.unique(samples[:, 0], axis=0)) == 5


def test_equal_layers_do_not_share_noise():
    inputs = keras.Input((400,))
    outputs = [MCDropout(0.5, seed=3)(inputs), MCDropout(0.5, seed=3)(inputs)]
    predictor = Predictor(keras.Model(inputs, outputs), likelihood="bernoulli")
    a, b = predictor.sample(np.full((1, 400), 0.5, "float32"), 4, seed=0)
    assert 0.4 < (a == b).mean() < 0.6


# Results that do not depend on batches, saving and state.


@pytest.mark.parametrize("make", [small_cnn, mlp], ids=["cnn", "mlp"])
def test_bit_equal_for_any_batch_size_and_any_split(make):
    model = make()
    x = images(70) if make is small_cnn else vectors(70)
    predictor = Predictor(model)
    p = predictor.predict_uncertainty(x, 5, seed=7)
    for batch_size in (1, 2, 15, 16, 17, 33, 69, 1000):
        assert_equal(p, predictor.predict_uncertainty(x, 5, seed=7, batch_size=batch_size))
    for rows in (slice(0, 1), slice(3, 4), slice(5, 22), slice(40, 70)):
        assert_equal(p, predictor.predict_uncertainty(x[rows], 5, seed=7), rows)


def test_bit_equal_after_saving(tmp_path):
    for i, model in enumerate([mlp(), small_cnn(), branched()]):
        x = images(5) if i == 1 else vectors(5)
        expected = Predictor(model).predict_uncertainty(x, 5, seed=7)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_equal(expected, Predictor(loaded).predict_uncertainty(x, 5, seed=7))


def test_fewer_samples_are_the_first_of_more():
    predictor = Predictor(mlp())
    x = vectors(4)
    np.testing.assert_array_equal(
        predictor.sample(x, 3, seed=5), predictor.sample(x, 9, seed=5)[:3]
    )


def test_seeds():
    predictor, x = Predictor(mlp()), vectors(4)
    np.testing.assert_array_equal(
        predictor.sample(x, 3, seed=5), predictor.sample(x, 3, seed=(5, 0))
    )
    assert not np.array_equal(predictor.sample(x, 3, seed=5), predictor.sample(x, 3, seed=6))
    assert not np.array_equal(predictor.sample(x, 3), predictor.sample(x, 3))
    keras.utils.set_random_seed(1)
    first = predictor.sample(x, 3)
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(first, predictor.sample(x, 3))
    for seed in (-1, 2**64, 0.5, "a", (1, 2, 3)):
        with pytest.raises(ValueError, match="Expected an integer"):
            predictor.sample(x, 3, seed=seed)


def test_leaves_the_layers_and_global_state_alone():
    model = small_cnn()
    before = [v.numpy().copy() for v in model.variables]
    state = random.getstate()
    Predictor(model).predict_uncertainty(images(), 3, seed=0)
    for value, variable in zip(before, model.variables):
        np.testing.assert_array_equal(value, variable.numpy())
    assert state == random.getstate()


def test_sampling_does_not_move_batch_normalization():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            MCDropout(0.5),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    before = [v.numpy().copy() for v in model.layers[1].variables]
    p = Predictor(model).predict_uncertainty(vectors(40) * 9, 5, seed=0)
    for value, variable in zip(before, model.layers[1].variables):
        np.testing.assert_array_equal(value, variable.numpy())
    # In inference mode, the prediction of a row does not depend on the other rows either.
    assert_equal(p, Predictor(model).predict_uncertainty(vectors(40)[:3] * 9, 5, seed=0), slice(3))


def test_traced_once_for_any_number_of_rows_and_samples():
    model, traces = small_cnn(), []
    layer = stochastic_layers(model)[0]
    draw = layer.draw_mask
    layer.draw_mask = lambda *arguments: traces.append(1) or draw(*arguments)
    predictor = Predictor(model)
    predictor.predict_uncertainty(images(5), 2, seed=0)
    once = len(traces)
    for rows, num_samples, seed in [(5, 3, 0), (40, 2, 1), (1, 7, 2)]:
        predictor.predict_uncertainty(images(rows), num_samples, seed, batch_size=9)
    assert len(traces) == once > 0


# Any model.


def branched():
    """A model with a skip around the noise, a shared layer, and noise in two places."""
    inputs = keras.Input((5,), name="features")
    shared = keras.layers.Dense(6, activation="relu")
    a = shared(inputs)
    b = MCDropout(0.5)(a)
    c = MCDropout(0.2)(keras.layers.Dense(6)(inputs))
    x = keras.layers.Concatenate()([a, b, c, keras.layers.Add()([a, c])])
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def functional_two_inputs():
    left, right = keras.Input((5,), name="left"), keras.Input((2,), name="right")
    x = keras.layers.Concatenate()([MCDropout(0.4)(left), keras.layers.Dense(3)(right)])
    return keras.Model({"left": left, "right": right}, keras.layers.Dense(3, "softmax")(x))


def nested():
    inner = mlp(5, 6)
    inputs = keras.Input((5,))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inner(inputs)))


def spatial_cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, padding="same"),
            MCSpatialDropout2D(0.5),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.drop = MCDropout(0.5)
        self.out = keras.layers.Dense(3, activation="softmax")

    def call(self, x, training=False):
        return self.out(self.drop(self.hidden(x), training=training))


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (branched, vectors(9)),
        (functional_two_inputs, {"left": vectors(9), "right": vectors(9, 2)}),
        (nested, vectors(9)),
        (spatial_cnn, np.random.default_rng(0).normal(size=(9, 8, 8, 2)).astype("float32")),
        (Subclassed, vectors(9)),
    ],
    ids=["branched", "two inputs", "nested", "spatial", "subclassed"],
)
def test_split_model_equals_the_whole_model(make, x):
    """Sample s equals the model called as a whole under the same seeds."""
    model = make()
    model(keras.tree.map_structure(lambda a: a[:1], x))
    samples = Predictor(model).sample(x, 3, seed=4)
    np.testing.assert_allclose(samples, layer_by_layer.sample(model, x, 3, seed=4), atol=1e-6)
    assert len(np.unique(samples[:, 0], axis=0)) == 3


def test_deterministic_prefix_runs_once():
    model, graphs = spatial_cnn(), {}
    first, second = model.layers[0], model.layers[2]
    for layer in (first, second):
        run, graphs[layer] = layer.convolution_op, []
        layer.convolution_op = lambda *xs, run=run, to=graphs[layer]: (
            to.append(tf.compat.v1.get_default_graph()) or run(*xs)
        )
    Predictor(model).predict_uncertainty(np.zeros((2, 8, 8, 2), "float32"), 9, seed=0)
    # Each is traced once: the second in the function of a sample, the first outside.
    (outside,), (of_a_sample,) = graphs[first], graphs[second]
    assert of_a_sample.outer_graph is outside


def test_several_outputs_have_a_prediction_each():
    inputs = keras.Input((5,))
    hidden = MCDropout(0.5)(keras.layers.Dense(8)(inputs))
    outputs = {
        "kind": keras.layers.Dense(3, activation="softmax")(hidden),
        "defects": keras.layers.Dense(2, activation="sigmoid")(hidden),
        "plain": keras.layers.Dense(4, activation="softmax")(inputs),
    }
    predictor = Predictor(
        keras.Model(inputs, outputs),
        likelihood={"kind": "categorical", "defects": "bernoulli", "plain": "categorical"},
    )
    p = predictor.predict_uncertainty(vectors(6), 8, seed=0, return_samples=True)
    assert p["kind"].mean.shape == (6, 3)
    assert p["plain"].mutual_information.max() < 1e-6  # no noise reaches it
    q = p["defects"]
    h = -(q.samples * np.log(q.samples) + (1 - q.samples) * np.log(1 - q.samples))
    np.testing.assert_allclose(q.expected_entropy, h.sum(-1).mean(0), atol=1e-5)
    m = q.samples.mean(0)
    np.testing.assert_allclose(
        q.predictive_entropy, -(m * np.log(m) + (1 - m) * np.log(1 - m)).sum(-1), atol=1e-5
    )
    np.testing.assert_allclose(q.variation_ratio, 1 - np.maximum(m, 1 - m).mean(-1), atol=1e-6)


def test_dense_outputs_per_pixel():
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), MCDropout(0.5), keras.layers.Conv2D(3, 1, activation="softmax")]
    )
    p = Predictor(model).predict_uncertainty(np.ones((2, 4, 4, 2), "float32"), 5, seed=0)
    assert p.mean.shape == (2, 4, 4, 3)
    assert p.mutual_information.shape == (2, 4, 4)


# Any source of data.


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return vectors(12)[4 * i : 4 * i + 4], np.zeros(4)


def test_arrays_datasets_and_pydatasets_agree():
    predictor, x = Predictor(mlp()), vectors(12)
    p = predictor.predict_uncertainty(x, 4, seed=0)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(5)
    labelled = tf.data.Dataset.from_tensor_slices((x, np.zeros(12))).batch(5)
    for source in (dataset, labelled, Batches(), tf.constant(x), x.astype("float64")):
        assert_equal(p, predictor.predict_uncertainty(source, 4, seed=0))
    assert predictor.predict_uncertainty(x[:0], 4, seed=0).mean.shape == (0, 3)
    with pytest.raises(ValueError, match="at least one batch"):
        predictor.predict_uncertainty(dataset.take(0), 4)


def test_bad_arguments():
    predictor, x = Predictor(mlp()), vectors(4)
    for num_samples in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"num_samples={num_samples}"):
            predictor.predict_uncertainty(x, num_samples)
    with pytest.raises(ValueError, match="batch_size=0"):
        predictor.predict_uncertainty(x, 2, batch_size=0)
    with pytest.raises(ValueError, match="same length"):
        Predictor(functional_two_inputs()).sample({"left": x, "right": vectors(3, 2)}, 2)
    with pytest.raises(ValueError, match="likelihood='poisson'"):
        Predictor(mlp(), likelihood="poisson")
    with pytest.raises(ValueError, match="one for each of 1 outputs"):
        Predictor(mlp(), likelihood=["categorical", "bernoulli"]).sample(x, 2)


def test_model_without_randomness_gives_one_sample_only():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, activation="softmax")])
    with pytest.raises(ValueError, match=r"Hint: replace keras\.layers\.Dropout"):
        Predictor(model).predict_uncertainty(vectors(4), 2)
    p = Predictor(model).predict_uncertainty(vectors(4), 1)
    np.testing.assert_allclose(p.mean, model(vectors(4)), atol=1e-6)
    assert p.mutual_information.max() == 0


def test_noise_that_cannot_be_sampled_is_refused():
    inputs = keras.Input((5,))
    hidden = keras.layers.Dropout(0.5, name="old_trick")(inputs, training=True)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    with pytest.raises(ValueError, match=r"'old_trick'.*called with training=True"):
        Predictor(model)


@pytest.mark.parametrize("make", [Subclassed, lambda: keras.Sequential([MCDropout(0.5)])])
def test_a_model_without_weights_is_refused(make):
    with pytest.raises(ValueError, match=r"Hint: begin the model with keras\.Input"):
        Predictor(make())


def test_outputs_that_are_not_probabilities_are_refused():
    logits = keras.Sequential([keras.Input((5,)), MCDropout(0.5), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="end the model in a softmax"):
        Predictor(logits).predict_uncertainty(vectors(4), 2)
    with pytest.raises(ValueError, match="end the model in a sigmoid"):
        Predictor(logits, "bernoulli").predict_uncertainty(vectors(4) * 9, 2)


@pytest.mark.parametrize(
    ("units", "activation"),
    [(1, "sigmoid"), (3, "sigmoid"), (1, None), (3, None), (1, "softmax")],
)
def test_what_to_do_where_sigmoids_are_taken_for_classes(units, activation):
    last = keras.layers.Dense(units, activation)
    model = keras.Sequential([keras.Input((5,)), MCDropout(0.5), last])
    hints = {
        (1, "sigmoid"): "Hint: pass likelihood='bernoulli' if",
        (3, "sigmoid"): "Hint: pass likelihood='bernoulli' if",
        (1, None): "Hint: end the model in a sigmoid and pass likelihood='bernoulli'",
        (3, None): "Hint: end the model in a softmax",
        (1, "softmax"): "1 outputs, .* Hint: end the model in a sigmoid and pass",
    }
    with pytest.raises(ValueError, match=hints[units, activation]):
        Predictor(model).predict_uncertainty(9 * vectors(4), 2)


def test_default_batch_needs_no_padding():
    assert DEFAULT_BATCH_SIZE % ROWS == 0


def test_bayesian_model_and_predictor_agree():
    model, x = bayesian_mlp(num_samples=6), vectors(8)
    assert_equal(
        model.predict_uncertainty(x, seed=3), Predictor(model).predict_uncertainty(x, 6, seed=3)
    )
    np.testing.assert_array_equal(model.sample(x, 4, seed=3), Predictor(model).sample(x, 4, seed=3))


class ShowsItsSeed(StochasticLayer):
    """Layer whose output is the seed that it drew."""

    def call(self, inputs, training=None):
        seed = tf.cast(self.draw_seed(bool(training)), tf.float64)
        return tf.tile(seed[None], [tf.shape(inputs)[0], 1])


class SeedAsWeight:
    """Posterior whose draw is its seed."""

    num_draws = None

    def __init__(self, variable):
        self.variables = [variable]

    def draw(self, index, seed):
        return [tf.cast(seed, tf.float64)]

    def center(self):
        return [tf.zeros(2, tf.float64)]


def test_a_posterior_shares_no_seed_with_a_layer():
    inputs = keras.Input((2,), dtype="float64")
    bias = keras.layers.Dense(2, kernel_initializer="zeros", dtype="float64")
    outputs = [bias(inputs), *(ShowsItsSeed(dtype="float64")(inputs) for _ in range(3))]
    model = keras.Model(inputs, outputs)
    predictor = Predictor(model, "normal", posterior=SeedAsWeight(bias.bias))
    seeds = np.stack(predictor.sample(np.zeros((1, 2)), num_samples=5, seed=0))  # (4, S, 1, 2)
    assert len(np.unique(seeds.reshape(-1, 2), axis=0)) == 4 * 5
