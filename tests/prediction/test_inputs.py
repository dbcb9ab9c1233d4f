"""Inputs of a prediction: finite sources of batches, all sizes that a model takes, and errors."""

import copy
import gc
import pickle
import weakref

import keras
import layer_by_layer
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from networks import mlp, vectors

import tfp_bayes
from tfp_bayes import Predictor
from tfp_bayes._plumbing.batches import batches
from tfp_bayes._plumbing.seeds import as_seed
from tfp_bayes.layers import MCDropout, MCSpatialDropout1D
from tfp_bayes.prediction import predictor as predictor_module

layers = keras.layers


@pytest.fixture(scope="module")
def predictor():
    return Predictor(mlp())


class Endless(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, i):
        return vectors(4)


def test_sources_without_an_end_are_refused(predictor):
    dataset = tf.data.Dataset.from_tensor_slices(vectors(4)).batch(2)
    for source in (dataset.repeat(), Endless()):
        with pytest.raises(ValueError, match=r"finite data.*Hint: "):
            predictor.sample(source, 2)
    for source in ((vectors(4) for _ in range(2)), iter(dataset)):
        with pytest.raises(ValueError, match=r"Received: an? \w+, whose length is unknown"):
            predictor.sample(source, 2)
    taken = predictor.sample(dataset.repeat().take(3), 2, seed=0)
    np.testing.assert_array_equal(taken[:, :4], predictor.sample(vectors(4), 2, seed=0))


def test_sources_that_cannot_be_read_are_refused(predictor):
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]])
    for source, message in [
        (3.0, "Received: float"),
        (None, "Received: NoneType"),
        ({}, "Received: none"),
        (ragged, r"a RaggedTensor\. Hint: "),
        (tf.sparse.from_dense(vectors(4)), "a SparseTensor"),
        (vectors(4)[0], r"batches of shape \(None, 5\).*x\[None\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            predictor.sample(source, 2)
    unbatched = tf.data.Dataset.from_tensor_slices(vectors(4))
    with pytest.raises(ValueError, match=r"Hint: use dataset\.batch"):
        predictor.sample(unbatched, 2)


def test_numbers_of_numpy_are_numbers(predictor):
    expected = predictor.sample(vectors(9), 2, seed=7)
    actual = predictor.sample(vectors(9), np.int32(2), seed=np.int32(7), batch_size=np.int64(4))
    np.testing.assert_array_equal(actual, expected)
    assert len(list(batches(vectors(9), np.int64(4)))) == 3


def test_numbers_that_an_integer_input_cannot_hold_are_refused():
    pixels = keras.Input((5,), dtype="uint8", name="pixels")
    outputs = softmax()(MCDropout(0.5)(layers.Rescaling(1 / 255)(pixels)))
    predictor = Predictor(keras.Model(pixels, outputs))
    x = np.arange(20).reshape(4, 5)
    expected = predictor.predict(x.astype("uint8"), 2, seed=0)
    for given in (x, x.astype("float32"), tf.constant(x, tf.float16)):
        np.testing.assert_array_equal(predictor.predict(given, 2, seed=0), expected)
    x[1] = 256
    for given in (x / 255, x, x - 20):
        with pytest.raises(ValueError, match="integers from 0 to 255 for input 'pixels'"):
            predictor.predict(given, 2, seed=0)
    with_nan = np.where(x == 3, np.nan, np.minimum(x, 255))
    assert np.isnan(predictor.predict(with_nan, 2)[0]).all()


def test_every_bit_of_a_seed_counts():
    assert as_seed(np.int32(7)).tolist() == [7, 0]
    assert as_seed(7 + (3 << 32)).tolist() == [7, 3]
    assert as_seed(np.uint64(2**64 - 1)).tolist() == [-1, -1]
    assert as_seed((7, 3)).tolist() == [7, 3]
    p = Predictor(keras.Sequential([keras.Input((5,)), MCDropout(0.5), softmax()]))
    assert not np.array_equal(
        p.sample(vectors(2), 3, seed=7), p.sample(vectors(2), 3, seed=7 + (1 << 32))
    )


def softmax():
    return layers.Dense(3, activation="softmax")


def test_no_rows_and_one_row():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3),
            layers.MaxPooling2D(),
            layers.Flatten(),
            MCDropout(0.5),
            softmax(),
        ]
    )
    p = Predictor(model).predict_uncertainty(np.zeros((0, 6, 6, 1)), 2, return_samples=True)
    assert p.mean.shape == (0, 3)
    assert p.samples.shape == (2, 0, 3)
    assert Predictor(model).predict(np.zeros((1, 6, 6, 1)), 2).shape == (1, 3)


def test_text():
    words = layers.TextVectorization(output_sequence_length=4, vocabulary=["good", "bad", "film"])
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            words,
            layers.Embedding(5, 20, mask_zero=True),
            MCSpatialDropout1D(0.5),
            layers.Dense(8),
            layers.GlobalAveragePooling1D(),
            softmax(),
        ]
    )
    x = np.array([["good film"], ["bad"], ["good good bad film film"]])
    predictor = Predictor(model)
    expected = predictor.sample(tf.constant(x), 3, seed=0)
    for source in (x, x.astype(object), x.astype("S30"), x[:, 0]):
        np.testing.assert_array_equal(predictor.sample(source, 3, seed=0), expected)
    np.testing.assert_allclose(predictor.sample(x[1:2], 3, seed=0), expected[:, 1:2], atol=1e-6)


def test_lookups_that_refuse_unknown_words_never_see_one():
    inputs = keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(vocabulary=["a", "b"], num_oov_indices=0, output_mode="one_hot")
    model = keras.Model(inputs, softmax()(MCDropout(0.5)(lookup(inputs))))
    assert Predictor(model).sample(np.array([["b"], ["a"]]), 2).shape == (2, 2, 3)


def test_inputs_by_name_in_any_order():
    left, right = keras.Input((None, 5), name="left"), keras.Input((2,), name="right")
    x = layers.Concatenate()([layers.GlobalMaxPooling1D()(left), right])
    outputs = softmax()(MCDropout(0.4)(x))
    named = {"right": vectors(9, 2), "left": np.stack([vectors(9)] * 3, axis=1)}
    samples = [
        Predictor(keras.Model(inputs, outputs)).sample(x, 2, seed=0)
        for inputs, x in [
            ([left, right], [named["left"], named["right"]]),
            ([left, right], named),
            ({"left": left, "right": right}, named),
        ]
    ]
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])


# One graph for all sizes.


def any_length():
    return keras.Sequential(
        [
            keras.Input((None, 5)),
            layers.Conv1D(8, 3, padding="same"),
            MCSpatialDropout1D(0.4),
            layers.Dense(8, activation="relu"),
            layers.GlobalMaxPooling1D(),
            softmax(),
        ]
    )


def lengths(*sizes):
    return [np.random.default_rng(n).normal(size=(3, n, 5)).astype("float32") for n in sizes]


def test_one_graph_for_all_sizes_that_a_model_leaves_free():
    predictor = Predictor(any_length())
    traces = []
    layer = predictor.model.layers[1]
    draw = layer.draw_mask
    layer.draw_mask = lambda *arguments: traces.append(1) or draw(*arguments)
    for x in lengths(4, 5, 9, 30):
        np.testing.assert_array_equal(
            predictor.sample(x, 2, seed=0), predictor.sample(x, 2, seed=0, batch_size=2)
        )
    assert len(traces) == 1  # for all samples and sizes
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(lengths(4, 7)), output_signature=tf.TensorSpec((None, None, 5))
    )
    assert predictor.sample(dataset, 2).shape == (2, 6, 3)
    assert len(traces) == 1


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = any_length()

    def call(self, x, training=False):
        return self.inner(x, training=training)


def test_graphs_of_subclassed_models_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(predictor_module, "MAX_GRAPHS", 2)
    model = Subclassed()
    model(lengths(4)[0])
    predictor = Predictor(model)
    alive = []
    for x in lengths(4, 5, 6):
        predictor.sample(x, 1)
        alive += [weakref.ref(f) for f in predictor._compiled.values()]
    gc.collect()
    assert len({id(f()) for f in alive if f() is not None}) == 2


# Graphs follow the model.


def test_replaced_weights_are_seen():
    """Quantization and LoRA replace the weights of a layer."""
    model = keras.Sequential(
        [
            keras.Input((40,)),
            MCDropout(0.5),
            layers.Dense(64, activation="relu"),
            MCDropout(0.5),
            softmax(),
        ]
    )
    predictor, x = Predictor(model), vectors(9, 40)
    predictor.sample(x, 2, seed=0)
    model.layers[1].enable_lora(2)
    model.layers[1].lora_kernel_b.assign_add(keras.random.normal((2, 64), seed=1))
    check(predictor, x)
    model.quantize("int8")
    check(predictor, x, tolerance=0.02)  # activations are rounded too


def check(predictor, x, tolerance=1e-6):
    actual = predictor.sample(x, 3, seed=0)
    expected = layer_by_layer.sample(predictor.model, x, 3, seed=0)
    np.testing.assert_allclose(actual, expected, atol=tolerance)


def test_pickled_and_copied():
    predictor, x = Predictor(mlp()), vectors(4)
    expected = predictor.sample(x, 2, seed=0)
    for twin in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        np.testing.assert_array_equal(twin.sample(x, 2, seed=0), expected)
        twin.model.layers[0].kernel.assign_add(tf.ones_like(twin.model.layers[0].kernel))
    np.testing.assert_array_equal(predictor.sample(x, 2, seed=0), expected)
    assert copy.copy(predictor).model is predictor.model


# NaN and infinity.


def pooled():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            MCDropout(0.5),
            softmax(),
        ]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_that_are_not_finite_have_no_uncertainty(value):
    """Max pooling ignores NaN, so the network would seem certain."""
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype("float32")
    predictor = Predictor(pooled())
    expected = predictor.predict_uncertainty(x, 3, seed=0, return_samples=True)
    x[2, 3, 3] = value
    p = predictor.predict_uncertainty(x, 3, seed=0, return_samples=True)
    others = [0, 1, 3, 4]
    for name in ("mean", "mutual_information", "predictive_entropy", "variation_ratio"):
        assert np.isnan(getattr(p, name)[2]).all()
        np.testing.assert_array_equal(getattr(p, name)[others], getattr(expected, name)[others])
    assert np.isnan(p.samples[:, 2]).all()
    np.testing.assert_array_equal(p.samples[:, others], expected.samples[:, others])


def test_weights_that_are_not_finite_are_named():
    model = pooled()
    predictor = Predictor(model)
    kernel = model.layers[0].kernel
    values = kernel.numpy()
    values[0, 0, 0, 3] = np.nan
    kernel.assign(values)
    with pytest.raises(ValueError, match=r"Expected finite weights.*conv2d.*kernel\. Hint"):
        predictor.predict(np.ones((2, 6, 6, 1)), 2)


def test_weights_that_are_not_finite_have_no_prediction_in_keras():
    """Keras' `predict` and `evaluate` run one graph, which cannot raise an error."""
    plain = pooled()
    model = tfp_bayes.BayesianModel(plain.inputs, plain.outputs[0], num_samples=2)
    model.compile(loss="sparse_categorical_crossentropy")
    x, y = np.ones((2, 6, 6, 1)), np.zeros(2, int)
    assert np.isfinite(model.predict(x, verbose=0)).all()
    kernel = plain.layers[0].kernel
    values = kernel.numpy()
    values[0, 0, 0, 3] = np.nan
    kernel.assign(values)
    assert np.isnan(model.predict(x, verbose=0)).all()
    assert np.isnan(model.evaluate(x, y, verbose=0))


def test_outputs_without_a_last_axis_are_refused():
    parts = [MCDropout(0.5), layers.Dense(1, activation="sigmoid"), layers.Reshape(())]
    model = keras.Sequential([keras.Input((5,)), *parts])
    with pytest.raises(ValueError, match=r"Received: outputs of shape \(None,\)\. Hint: keep"):
        Predictor(model, likelihood="bernoulli").predict(vectors(4), 2)


def test_images_of_another_size_than_the_model_takes_are_refused():
    """Convolutions that are averaged over the image would accept them, but Keras refuses too."""
    inputs = keras.Input((8, 8, 3))
    hidden = MCDropout(0.5)(keras.layers.Conv2D(4, 3)(inputs))
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(hidden))
    model = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match="incompatible"):
        model.predict(np.zeros((2, 16, 8, 3)), verbose=0)
    for shape in ((2, 16, 8, 3), (2, 8, 8, 1)):
        with pytest.raises(ValueError, match=r"\(None, 8, 8, 3\) for input.*Received: shape \(2, "):
            Predictor(model).predict_uncertainty(np.zeros(shape), num_samples=2, seed=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (vectors(4) + 1j, "Received: complex numbers"),
        (vectors(4).astype(object), "Received: objects"),
        (vectors(4).astype(str), r"Expected float32 for input .* Received: <dtype: 'string'>"),
        (scipy.sparse.csr_matrix(vectors(4)), r"a sparse csr_matrix.*x\.toarray"),
        (np.ma.masked_greater(vectors(4), 0), "masked entries"),
        ((vectors(4), np.zeros(4)), "Received: tuple of 2 .*without targets"),
        ({"other": vectors(4)}, r"Received: dict of 1 \(other\)"),
        (
            vectors(4).tolist(),
            r"Received: (float, ){5}\.\.\.\. Hint: .*asarray",
        ),
    ],
    ids=["complex", "objects", "text", "sparse", "masked", "targets", "names", "lists"],
)
def test_inputs_that_the_model_would_misread_are_refused(predictor, x, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict_uncertainty(x, 2)


def test_a_dictionary_may_hold_more_than_a_model_of_a_list_takes():
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    outputs = layers.Dense(3, "softmax")(layers.Subtract()([MCDropout(0.4)(left), right]))
    given = {"left": vectors(4), "right": vectors(4) + 1}
    more = {"id": vectors(4), **given}
    predictor = Predictor(keras.Model([left, right], outputs))
    expected = predictor.sample(given, 2, seed=0)
    np.testing.assert_array_equal(predictor.sample(more, 2, seed=0), expected)
    named = Predictor(keras.Model({"left": left, "right": right}, outputs))
    np.testing.assert_array_equal(named.sample(given, 2, seed=0), expected)
    with pytest.raises(ValueError, match=r"Received: dict of 3 \(id, left, right\)"):
        named.sample(more, 2, seed=0)  # Keras reads "id" as "left"
