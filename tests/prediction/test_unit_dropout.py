"""Masks on kernels and skipped units give the same numbers as running layer by layer."""

import keras
import layer_by_layer
import numpy as np
import pytest

from tfp_bayes import BayesianCNN, Ensemble, Predictor
from tfp_bayes.layers import (
    MCConcreteSpatialDropout2D,
    MCDropout,
    MCSpatialDropout1D,
    MCSpatialDropout2D,
)
from tfp_bayes.prediction.split import SplitModel

layers = keras.layers


def sequential(*parts):
    return lambda: keras.Sequential([keras.Input(parts[0]), *[make() for make in parts[1:]]])


def softmax():
    return layers.Dense(3, activation="softmax")


def used_twice():
    inputs = keras.Input((6,))
    x = MCDropout(0.5)(layers.Dense(64)(inputs))
    both = layers.Concatenate()([layers.Dense(4)(x), layers.Dense(4)(x)])
    return keras.Model(inputs, softmax()(both))


def shared_layer():
    inputs = keras.Input((64,))
    dense, drop = layers.Dense(64, activation="relu"), MCDropout(0.5)
    return keras.Model(inputs, softmax()(drop(dense(drop(dense(inputs))))))


def output_of_the_dropout():
    inputs = keras.Input((6,))
    x = MCDropout(0.5)(layers.Dense(64, activation="softmax")(inputs))
    return keras.Model(inputs, [x, layers.Dense(3, activation="sigmoid")(x)])


def around_the_dropout():
    """A skip around the dropout, which needs the units that the dropout drops."""
    inputs = keras.Input((40,))
    x = layers.Dense(64, activation="relu")(MCDropout(0.5)(inputs))
    return keras.Model(inputs, softmax()(layers.Add()([x, layers.Dense(64)(MCDropout(0.5)(x))])))


def around_an_activation():
    inputs = keras.Input((40,))
    x = layers.Dense(64)(MCDropout(0.5)(inputs))
    y = layers.Dense(64)(MCDropout(0.5)(layers.ReLU()(x)))
    return keras.Model(inputs, softmax()(layers.Add()([x, y])))


def behind(*parts):
    """A dropout, layers after it, and the layer that reads the mask."""
    return sequential((40,), lambda: MCDropout(0.5), *parts, softmax)


def padded_steps():
    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(4, 40, mask_zero=True),
            MCSpatialDropout1D(0.5),
            layers.Dense(64),
            MCSpatialDropout1D(0.5),
            layers.Dense(6),
            layers.GlobalAveragePooling1D(),
            softmax(),
        ]
    )


def quantized():
    model = CASES["dense, dropout, dense"][0]()
    model.quantize("int8")
    return model


class OwnDense(layers.Dense):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs)


# Name: (network, number of dropouts with masks on kernels, number of layers that skip units).
CASES = {
    "gal": (lambda: BayesianCNN((12, 12, 1), 4), 2, 1),
    "kirsch": (lambda: BayesianCNN((16, 16, 1), 4, architecture="kirsch"), 3, 2),
    "dense, dropout, dense": (
        sequential(
            (6,),
            lambda: MCDropout(0.2),
            lambda: layers.Dense(70, activation="tanh"),
            lambda: MCDropout(0.5),
            softmax,
        ),
        2,
        1,
    ),
    "dropout, activation, dense": (
        sequential(
            (40,),
            lambda: MCDropout(0.5),
            lambda: layers.Dense(40, use_bias=False),
            lambda: MCDropout(0.7),
            lambda: layers.Activation("relu"),
            softmax,
        ),
        2,
        1,
    ),
    "too few units to skip any": (
        sequential(
            (6,), lambda: MCDropout(0.5), lambda: layers.Dense(20), lambda: MCDropout(0.5), softmax
        ),
        2,
        0,
    ),
    "an activation that a mask does not commute with": (
        sequential(
            (40,),
            lambda: MCDropout(0.5),
            lambda: layers.Dense(40),
            lambda: MCDropout(0.5),
            lambda: layers.Activation("sigmoid"),
            softmax,
        ),
        1,
        0,
    ),
    "a bounded ReLU": (
        sequential((40,), lambda: MCDropout(0.5), lambda: layers.ReLU(max_value=0.1), softmax),
        0,
        0,
    ),
    "an activation across units": (
        sequential(
            (40,),
            lambda: MCDropout(0.5),
            lambda: layers.Dense(40, activation="softmax"),
            lambda: MCDropout(0.5),
            softmax,
        ),
        2,
        0,
    ),
    "batch normalization": (
        sequential(
            (40,),
            lambda: MCDropout(0.5),
            lambda: layers.Dense(40),
            lambda: layers.BatchNormalization(beta_initializer="ones"),
            lambda: MCDropout(0.5),
            lambda: layers.BatchNormalization(beta_initializer="ones"),
            softmax,
        ),
        1,
        0,
    ),
    "two dropouts in a row": (
        sequential(
            (6,),
            lambda: MCDropout(0.5),
            lambda: layers.Dense(64),
            lambda: MCDropout(0.5),
            lambda: MCDropout(0.5),
            softmax,
        ),
        2,
        0,
    ),
    "flattened maps": (
        sequential(
            (8, 8, 2),
            lambda: MCSpatialDropout2D(0.3),
            lambda: layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            lambda: MCSpatialDropout2D(0.5),
            lambda: layers.AveragePooling2D(2),
            lambda: layers.Flatten(),
            softmax,
        ),
        2,
        1,
    ),
    "maps of the prefix, flattened": (
        sequential(
            (8, 8, 2),
            lambda: layers.Conv2D(32, 3),
            lambda: MCSpatialDropout2D(0.5),
            lambda: layers.Flatten(),
            softmax,
        ),
        1,
        0,
    ),
    "units that are flattened maps": (
        sequential(
            (8, 8, 2),
            lambda: MCSpatialDropout2D(0.5),
            lambda: layers.Conv2D(32, 3),
            lambda: layers.Flatten(),
            lambda: MCDropout(0.5),
            softmax,
        ),
        2,
        0,
    ),
    "single pixels": (
        sequential(
            (8, 8, 2),
            lambda: MCDropout(0.5),
            lambda: layers.Conv2D(3, 8, activation="sigmoid"),
            layers.Flatten,
        ),
        0,
        0,
    ),
    "sequences": (
        sequential(
            (9, 32),
            lambda: MCSpatialDropout1D(0.5),
            lambda: layers.Conv1D(48, 3),
            lambda: MCSpatialDropout1D(0.5),
            lambda: layers.Dense(64, activation="gelu"),
            lambda: MCSpatialDropout1D(0.5),
            lambda: layers.GlobalMaxPooling1D(),
            softmax,
        ),
        3,
        2,
    ),
    "groups": (
        sequential(
            (8, 8, 32),
            lambda: MCSpatialDropout2D(0.5),
            lambda: layers.Conv2D(4, 3, groups=2),
            lambda: layers.GlobalAveragePooling2D(),
            softmax,
        ),
        0,
        0,
    ),
    "a causal convolution": (
        sequential(
            (9, 40),
            lambda: MCSpatialDropout1D(0.5),
            lambda: layers.Conv1D(40, 3, padding="causal"),
            lambda: MCSpatialDropout1D(0.5),
            lambda: layers.GlobalAveragePooling1D(),
            softmax,
        ),
        1,
        0,
    ),
    "dilated convolutions": (
        sequential(
            (9, 40),
            lambda: MCSpatialDropout1D(0.5),
            lambda: layers.Conv1D(40, 3, padding="same", dilation_rate=2),
            lambda: MCSpatialDropout1D(0.5),
            lambda: layers.Conv1D(40, 3, padding="same", dilation_rate=3),
            lambda: layers.GlobalAveragePooling1D(),
            softmax,
        ),
        0,
        0,
    ),
    "one mask for all units": (
        sequential((40,), lambda: MCDropout(0.5, noise_shape=(None, 1)), softmax),
        0,
        0,
    ),
    "maps along another axis": (
        sequential(
            (8, 8, 8),
            lambda: MCSpatialDropout2D(0.5, "channels_first"),
            lambda: layers.Conv2D(8, 1),
            lambda: MCConcreteSpatialDropout2D(0.5, data_format="channels_first"),
            lambda: layers.Conv2D(3, 8, activation="sigmoid"),
            layers.Flatten,
        ),
        0,
        0,
    ),
    "a ReLU with a threshold": (behind(lambda: layers.ReLU(threshold=0.3)), 0, 0),
    "a leaky ReLU": (behind(lambda: layers.ReLU(negative_slope=0.3)), 1, 0),
    "activations that are layers": (behind(layers.LeakyReLU, layers.PReLU), 0, 0),
    "a reader whose activation is a layer": (
        behind(lambda: layers.Dense(9, activation=layers.ELU())),
        0,
        0,
    ),
    "a subclass": (behind(lambda: OwnDense(8)), 0, 0),
    "quantized": (lambda: quantized(), 0, 0),
    "pooling of other axes": (
        sequential(
            (8, 6, 40),
            lambda: MCSpatialDropout2D(0.5),
            lambda: layers.GlobalMaxPooling2D(data_format="channels_first"),
            softmax,
        ),
        0,
        0,
    ),
    "flattening in another order": (
        sequential(
            (4, 3, 40),
            lambda: MCSpatialDropout2D(0.5),
            lambda: layers.Flatten(data_format="channels_first"),
            softmax,
        ),
        0,
        0,
    ),
    "around the dropout": (around_the_dropout, 2, 0),
    "around an activation": (around_an_activation, 2, 0),
    "padded steps": (padded_steps, 2, 1),
    "used twice": (used_twice, 0, 0),
    "shared layer": (shared_layer, 0, 0),
    "output of the dropout": (output_of_the_dropout, 0, 0),
}


def some_inputs(model, rows=20):
    x = np.random.default_rng(0).normal(size=(rows, *model.input_shape[1:]))
    return np.abs(x).astype("int32") if model.inputs[0].dtype == "int32" else x.astype("float32")


@pytest.mark.parametrize("name", CASES)
def test_equals_layer_after_layer(name):
    make, num_waiting, num_skipping = CASES[name]
    model = make()
    for variable in model.trainable_variables:  # so that biases and centers are not zero
        variable.assign_add(keras.random.normal(variable.shape, stddev=0.1, seed=1))
    split = SplitModel(model)
    assert (len(split._dropouts), len(split._makers())) == (num_waiting, num_skipping)
    x = some_inputs(model)
    samples = Predictor(model, likelihood="bernoulli").sample(x, 6, seed=0)
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
        samples,
        layer_by_layer.sample(model, x, 6, seed=0),
    )
    assert len(np.unique(keras.tree.flatten(samples)[0][:, 0], axis=0)) > 1


@pytest.mark.parametrize("name", ["kirsch", "flattened maps", "sequences"])
def test_bit_equal_for_any_batch_size(name):
    model = CASES[name][0]()
    predictor, x = Predictor(model), some_inputs(model, 40)
    expected = predictor.sample(x, 5, seed=1)
    for batch_size in (1, 7, 16, 33):
        np.testing.assert_array_equal(
            predictor.sample(x, 5, seed=1, batch_size=batch_size), expected
        )


def test_every_unit_dropped():
    """If the whole mask is 0, only the bias remains."""
    dense = layers.Dense(3, activation="sigmoid", bias_initializer="ones")
    model = keras.Sequential(
        [keras.Input((17,)), MCDropout(0.5), layers.Dense(17), MCDropout(0.999), dense]
    )
    predictor = Predictor(model, likelihood="bernoulli")
    assert predictor._split._makers()
    samples = predictor.sample(np.ones((4, 17)), 50, seed=0)
    at_bias = np.isclose(samples, 1 / (1 + np.exp(-1))).all((1, 2))
    assert at_bias.mean() > 0.9


def test_mixed_precision():
    make = CASES["kirsch"][0]
    keras.utils.set_random_seed(0)
    single = make()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = make()
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(single.get_weights())
    x = some_inputs(single)
    a, b = Predictor(half).sample(x, 4, seed=0), Predictor(single).sample(x, 4, seed=0)
    np.testing.assert_allclose(a, b, atol=5e-3)


def test_random_weights_compute_every_unit():
    make = CASES["dense, dropout, dense"][0]
    members = [make(), make()]
    ensemble = Ensemble(members)
    predictor = Predictor(members[0], posterior=ensemble)
    assert len(predictor._split._dropouts) == 2
    assert not predictor._split._makers()
    x = some_inputs(members[0])
    samples = predictor.sample(x, 2, seed=0)
    alone = Predictor(members[0]).sample(x, 2, seed=0)
    np.testing.assert_allclose(samples[0], alone[0], atol=1e-6)
    assert np.abs(samples[1] - alone[1]).max() > 0.01


def test_same_answers_where_training_is_compiled_by_xla():
    """On a GPU, Keras trains with XLA, which draws other numbers and has no dynamic sizes."""
    model = CASES["kirsch"][0]()  # drops maps and units
    x, y = 80 * some_inputs(model), np.zeros(20)  # in the range of pixels
    answers = []
    for jit_compile in (False, True):
        model.compile(loss="sparse_categorical_crossentropy", jit_compile=jit_compile)
        answers.append((model.predict(x, verbose=0), model.evaluate(x, y, verbose=0)))
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    assert answers[0][1] == answers[1][1]
    model.fit(x, y, verbose=0)
    assert model.jit_compile
