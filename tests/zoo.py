"""Ordinary Keras models that were not written for this library, to test it on.

Every entry is a plain Keras model with its data. The keras.applications are too large for every
run of the tests; `pytest --zoo` includes them. `python tests/zoo_table.py` prints the results of
the checks of each model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

SEED = 7


@dataclass(frozen=True)
class Entry:
    """A model and its data.

    Attributes:
        build: Function that returns the built model, with weights from the global Keras seed.
        x: Function from a number of rows to inputs.
        y: Function from a number of rows to targets.
        loss: Training loss of each output.
        likelihood: Likelihood of each output.
        inference: Inference method that `to_bayesian` adds, or None if the model is already
            stochastic.
        seen: Function from inputs to the mask of the observations that count, for models with
            masked time steps.
        large: Whether the model is too large for every run of the tests.
    """

    build: Callable[[], keras.Model]
    x: Callable[[int], Any]
    y: Callable[[int], Any]
    loss: Any = "sparse_categorical_crossentropy"
    likelihood: Any = "categorical"
    inference: str | None = "mc_dropout"
    seen: Callable[[Any], np.ndarray] | None = None
    large: bool = False


ZOO: dict[str, Entry] = {}


def entry(x, y, **arguments):
    """Return a decorator that registers a function as a model of the zoo."""

    def register(build):
        ZOO[build.__name__] = Entry(build, x, y, **arguments)
        return build

    return register


# Data.


def real(*shape):
    return lambda n: np.random.default_rng(SEED).normal(size=(n, *shape)).astype("float32")


def whole(high, *shape, dtype="int32", low=0):
    return lambda n: np.random.default_rng(SEED).integers(low, high, (n, *shape)).astype(dtype)


def pixels(*shape):
    return whole(256, *shape, dtype="uint8")


def tokens(length, vocabulary):
    """Return a function that makes sentences of different lengths, padded with 0."""

    def make(n):
        rng = np.random.default_rng(SEED)
        words = rng.integers(1, vocabulary, (n, length))
        lengths = rng.integers(2, length + 1, (n, 1))
        return np.where(np.arange(length) < lengths, words, 0).astype("int32")

    return make


def words(n):
    rng = np.random.default_rng(SEED)
    return rng.choice(["red", "green", "blue", "unknown"], (n, 1)).astype("O")


def sentences(n):
    rng = np.random.default_rng(SEED)
    return np.array([" ".join(rng.choice(["a", "big", "red", "dog"], 3)) for _ in range(n)], "O")


labels = whole(3)


# keras.applications, one of each family, with random weights.


def application(name, size):
    make = getattr(keras.applications, name)

    def build():
        return make(input_shape=(size, size, 3), weights=None, classes=3)

    def x(n):
        return pixels(size, size, 3)(n).astype("float32")

    ZOO[name] = Entry(build, x, labels, inference="flipout", large=True)


for _name, _size in {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}.items():
    application(_name, _size)


# Images.


@entry(real(8, 8, 2), whole(3, 8, 8))
def u_net():
    inputs = keras.Input((8, 8, 2))

    def block(x, filters):
        x = kl.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return kl.ReLU()(kl.BatchNormalization()(x))

    a = block(inputs, 4)
    b = kl.Dropout(0.3)(block(kl.MaxPooling2D()(a), 6))
    up = kl.concatenate([kl.Conv2DTranspose(4, 2, strides=2)(b), kl.UpSampling2D()(b), a])
    up = kl.SpatialDropout2D(0.3)(block(up, 4))
    return keras.Model(inputs, kl.Conv2D(3, 1, activation="softmax")(up))


@entry(pixels(12, 12, 3), labels)
def pixels_as_stored():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), dtype="uint8"),
            kl.Rescaling(1 / 255),
            kl.Conv2D(4, 3, activation="relu"),
            kl.Dropout(0.2),
            kl.GlobalAveragePooling2D(),
            kl.Dense(3, activation="softmax"),
        ]
    )


@entry(real(12, 12, 3), labels)
def augmented():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.Sequential([kl.RandomFlip("horizontal"), kl.RandomTranslation(0.2, 0.2)]),
            kl.RandomRotation(0.1),
            kl.RandomContrast(0.2),
            kl.Conv2D(4, 3, strides=2, activation="gelu"),
            kl.SpatialDropout2D(0.3),
            kl.Flatten(),
            kl.Dropout(0.5),
            kl.Dense(3, activation="softmax"),
        ]
    )


@entry(real(12, 12, 3), labels)
def residual():
    inputs = keras.Input((12, 12, 3))
    x = kl.Conv2D(20, 3, padding="same")(inputs)
    for _ in range(2):
        y = kl.Activation("relu")(kl.BatchNormalization()(x))
        y = kl.SpatialDropout2D(0.5)(y)
        y = kl.Conv2D(20, 3, padding="same")(y)
        x = x + y
    x = kl.GlobalMaxPooling2D()(kl.LeakyReLU()(x))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.Dropout(0.5)(x)))


@entry(real(10, 10, 4), labels, inference="flipout")
def separable():
    inputs = keras.Input((10, 10, 4))
    x = kl.SeparableConv2D(6, 3, activation="relu")(inputs)
    x = kl.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = kl.Conv2D(6, 1, groups=2)(kl.GroupNormalization(2)(x))
    x = kl.GlobalAveragePooling2D(keepdims=True)(kl.PReLU(shared_axes=[1, 2])(x))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.Flatten()(x)))


@entry(real(3, 6, 6), labels)
def channels_first():
    inputs = keras.Input((3, 6, 6))
    x = kl.BatchNormalization(axis=1)(inputs)
    x = kl.SpatialDropout2D(0.4, data_format="channels_first")(x)
    x = kl.Flatten(data_format="channels_first")(x)
    x = kl.Dropout(0.4)(kl.Dense(20, activation="relu")(x))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(x))


@entry(real(4, 6, 6, 2), labels)
def volume():
    inputs = keras.Input((4, 6, 6, 2))
    x = kl.Conv3D(20, 2, activation="elu")(inputs)
    x = kl.SpatialDropout3D(0.4)(x)
    x = kl.AveragePooling3D((1, 2, 2))(x)
    x = kl.Conv3D(4, (1, 2, 2))(x)
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.GlobalMaxPooling3D()(x)))


@entry(real(3, 8, 8, 2), labels)
def video():
    inputs = keras.Input((3, 8, 8, 2))
    x = kl.TimeDistributed(kl.Conv2D(4, 3, activation="relu"))(inputs)
    x = kl.TimeDistributed(kl.Flatten())(x)
    x = kl.GRU(6)(kl.SpatialDropout1D(0.3)(x))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(x))


@entry(real(3, 6, 6, 2), labels)
def conv_lstm():
    inputs = keras.Input((3, 6, 6, 2))
    x = kl.ConvLSTM2D(3, 3, padding="same")(inputs)
    x = kl.Dropout(0.4)(kl.Flatten()(kl.ZeroPadding2D(1)(kl.Cropping2D(1)(x))))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(x))


@entry(
    lambda n: real(8, 8, 1)(n).clip(0, 1),
    lambda n: (real(8, 8, 1)(n) > 0).astype("float32"),
    loss="binary_crossentropy",
    likelihood="bernoulli",
)
def autoencoder():
    encoder = keras.Sequential(
        [keras.Input((8, 8, 1)), kl.Flatten(), kl.Dense(12, "relu"), kl.Dropout(0.3)],
        name="encoder",
    )
    decoder = keras.Sequential(
        [keras.Input((12,)), kl.Dense(64, "sigmoid"), kl.Reshape((8, 8, 1))], name="decoder"
    )
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, decoder(encoder(inputs)))


# Sequences.


@entry(tokens(9, 20), labels)
def text_lstm():
    inputs = keras.Input((9,), dtype="int32")
    x = kl.Embedding(20, 6, mask_zero=True)(inputs)
    x = kl.LSTM(5, return_sequences=True)(kl.Dropout(0.2)(x))
    x = kl.Bidirectional(kl.GRU(4))(x)
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.Dropout(0.5)(x)))


@entry(tokens(9, 20), whole(3, 9), seen=lambda x: x != 0)
def tagger():
    inputs = keras.Input((9,), dtype="int32")
    x = kl.Embedding(20, 6, mask_zero=True)(inputs)
    x = kl.TimeDistributed(kl.Dense(8, activation="relu"))(kl.Dropout(0.3)(x))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.Dropout(0.3)(x)))


@entry(tokens(9, 20), labels)
def transformer():
    inputs = keras.Input((9,), dtype="int32")
    x = kl.Embedding(20, 8, mask_zero=True)(inputs)
    x = x + kl.Embedding(9, 8)(ops.arange(9))
    attended = kl.MultiHeadAttention(2, 4)(x, x)
    x = kl.LayerNormalization()(x + kl.Dropout(0.2)(attended))
    forward = kl.Dense(8)(kl.Dense(16, activation="gelu")(x))
    x = kl.LayerNormalization()(kl.Add()([x, kl.Dropout(0.2)(forward)]))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.GlobalAveragePooling1D()(x)))


@entry(tokens(9, 20), labels, inference="flipout")
def transformer_with_random_weights():
    return transformer()


@entry(real(9, 4), labels)
def attention():
    inputs = keras.Input((9, 4))
    query, value = kl.Dense(5)(inputs), kl.Conv1D(5, 3, padding="same")(inputs)
    x = kl.concatenate([kl.Attention()([query, value]), kl.AdditiveAttention()([query, value])])
    x = kl.GlobalMaxPooling1D()(kl.SpatialDropout1D(0.3)(x))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(x))


@entry(real(12, 2), labels)
def wave_net():
    inputs = keras.Input((12, 2))
    x = kl.Conv1D(20, 2, padding="causal")(inputs)
    for rate in (1, 2, 4):
        y = kl.Conv1D(20, 2, padding="causal", dilation_rate=rate, activation="tanh")(x)
        gate = kl.Conv1D(20, 2, padding="causal", dilation_rate=rate, activation="sigmoid")(x)
        x = kl.Conv1D(20, 1)(kl.SpatialDropout1D(0.5)(y * gate)) + x
    x = kl.AveragePooling1D(2)(x)
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.Flatten()(x)))


@entry(real(9, 4), labels, inference="reparameterization")
def stacked_cells():
    inputs = keras.Input((9, 4))
    x = kl.RNN(kl.StackedRNNCells([kl.LSTMCell(4), kl.GRUCell(3)]))(inputs)
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(x))


def normal_outputs(units):
    from tfp_bayes.layers import NormalParameters

    return NormalParameters(), 2 * units


def normal_nll():
    from tfp_bayes.losses import NormalNLL

    return NormalNLL()


@entry(real(24, 2), real(24, 2), loss=normal_nll, likelihood="normal")
def forecast():
    inputs = keras.Input((24, 2))
    parameters, units = normal_outputs(2)
    x = kl.Dropout(0.2)(kl.LSTM(6, return_sequences=True)(inputs))
    return keras.Model(inputs, parameters(kl.Dense(units)(x)))


# Tables.


@entry(lambda n: 100 + 50 * real(5)(n), labels)
def normalized_table():
    normalization = kl.Normalization()
    normalization.adapt(100 + 50 * real(5)(40))
    return keras.Sequential(
        [
            keras.Input((5,)),
            normalization,
            kl.Dense(20, activation="relu"),
            kl.Dropout(0.5),
            kl.Dense(3, activation="softmax"),
        ]
    )


@entry(words, labels)
def words_looked_up():
    lookup = kl.StringLookup()
    lookup.adapt(["red", "green", "blue"])
    inputs = keras.Input((1,), dtype="string")
    x = kl.Flatten()(kl.Embedding(lookup.vocabulary_size(), 4)(lookup(inputs)))
    x = kl.Dropout(0.4)(kl.Dense(20, activation="tanh")(x))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(x))


@entry(sentences, labels)
def text_as_stored():
    vectorization = kl.TextVectorization(output_sequence_length=4)
    vectorization.adapt(["a big dog", "the red dog"])
    inputs = keras.Input((), dtype="string")
    x = kl.Embedding(vectorization.vocabulary_size(), 4, mask_zero=True)(vectorization(inputs))
    x = kl.GRU(5)(x)
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.Dropout(0.4)(x)))


@entry(
    lambda n: {
        "age": real(1)(n),
        "color": whole(4, 1)(n),
        "city": whole(50, 1)(n),
    },
    lambda n: whole(2, 1, dtype="float32")(n),
    loss="binary_crossentropy",
    likelihood="bernoulli",
)
def table_of_columns():
    inputs = {
        "age": keras.Input((1,), name="age"),
        "color": keras.Input((1,), name="color", dtype="int32"),
        "city": keras.Input((1,), name="city", dtype="int32"),
    }
    age = kl.Discretization(bin_boundaries=[-1.0, 0.0, 1.0], output_mode="one_hot")(inputs["age"])
    color = kl.CategoryEncoding(4, output_mode="one_hot")(inputs["color"])
    city = kl.Flatten()(kl.Embedding(8, 3)(kl.Hashing(8)(inputs["city"])))
    x = kl.Concatenate()([age, color, city, inputs["age"]])
    x = kl.Dropout(0.5)(kl.Dense(32, activation="silu")(x))
    return keras.Model(inputs, kl.Dense(1, activation="sigmoid")(x))


@entry(
    real(6),
    lambda n: whole(2, 40, dtype="float32")(n),
    loss="binary_crossentropy",
    likelihood="bernoulli",
    inference="flipout",
)
def many_labels():
    return keras.Sequential(
        [keras.Input((6,)), kl.Dense(12, "relu"), kl.Dense(40, activation="sigmoid")]
    )


@entry(whole(4, 5), labels, inference="local_reparameterization")
def counts():
    return keras.Sequential(
        [keras.Input((5,), dtype="int32"), kl.Dense(8, "relu"), kl.Dense(3, "softmax")]
    )


@entry(real(5), real(2), loss=normal_nll, likelihood="normal", inference="reparameterization")
def two_targets():
    inputs = keras.Input((5,))
    parameters, units = normal_outputs(2)
    return keras.Model(inputs, parameters(kl.Dense(units)(kl.Dense(8, "tanh")(inputs))))


@entry(real(6), labels, inference="flipout")
def regularized():
    return keras.Sequential(
        [
            keras.Input((6,)),
            kl.BatchNormalization(gamma_regularizer="l2"),
            kl.GaussianNoise(0.3),
            kl.Dense(8, "relu", activity_regularizer="l2"),
            kl.GaussianDropout(0.2),
            kl.AlphaDropout(0.2),
            kl.Dense(3, "softmax"),
        ]
    )


# Graphs.


@entry(real(6), labels)
def keras_operations():
    inputs = keras.Input((6,))
    left, right = inputs[:, :3], inputs[:, 3:]
    x = ops.concatenate([left * 2.0 + right, ops.tanh(left) - right / 3.0], axis=-1)
    x = kl.Dense(20, activation="relu")(x)
    x = ops.expand_dims(kl.Dropout(0.4)(x), 1)
    x = ops.squeeze(ops.maximum(x, -x), axis=1)
    return keras.Model(inputs, ops.softmax(kl.Dense(3)(x)))


@entry(lambda n: [real(5)(n), real(4)(n)], labels)
def two_inputs():
    a, b = keras.Input((5,)), keras.Input((4,))
    x, y = kl.Dense(6, "relu")(a), kl.Dropout(0.3)(kl.Dense(6, "relu")(b))
    x = kl.concatenate(
        [kl.Multiply()([x, y]), kl.Average()([x, y]), kl.Maximum()([x, y]), kl.Dot(1)([x, y])]
    )
    return keras.Model([a, b], kl.Dense(3, activation="softmax")(x))


@entry(
    real(6),
    lambda n: {"kind": labels(n), "flags": whole(2, 4, dtype="float32")(n)},
    loss={"kind": "sparse_categorical_crossentropy", "flags": "binary_crossentropy"},
    likelihood={"kind": "categorical", "flags": "bernoulli"},
)
def two_outputs():
    inputs = keras.Input((6,))
    x = kl.Dropout(0.5)(kl.Dense(32, activation="relu")(inputs))
    return keras.Model(
        inputs,
        {
            "kind": kl.Dense(3, activation="softmax", name="kind")(x),
            "flags": kl.Dense(4, activation="sigmoid", name="flags")(x),
        },
    )


@entry(lambda n: {"left": real(5)(n), "right": real(5)(n)}, labels, inference="flipout")
def shared_tower():
    tower = keras.Sequential([keras.Input((5,)), kl.Dense(6, "relu"), kl.Dense(4)], name="tower")
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    a, b = tower(left), tower(right)
    x = kl.concatenate([a, b, ops.abs(a - b)])
    return keras.Model({"left": left, "right": right}, kl.Dense(3, activation="softmax")(x))


@entry(real(6), labels)
def nested_twice():
    inner = keras.Sequential([keras.Input((6,)), kl.Dense(6, "relu"), kl.Dropout(0.3)])
    middle_input = keras.Input((6,))
    middle = keras.Model(middle_input, inner(middle_input) + middle_input)
    inputs = keras.Input((6,))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(middle(middle(inputs))))


@entry(real(12, 12, 3), labels)
def frozen_backbone():
    backbone = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            kl.Conv2D(4, 3, use_bias=False),
            kl.BatchNormalization(),
            kl.ReLU(),
            kl.GlobalAveragePooling2D(),
        ],
        name="backbone",
    )
    backbone.trainable = False
    inputs = keras.Input((12, 12, 3))
    x = kl.Dropout(0.5)(kl.Dense(20, activation="relu")(backbone(inputs, training=False)))
    return keras.Model(inputs, kl.Dense(3, activation="softmax")(x))


@entry(real(8, 8, 2), labels)
def half_precision():
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(20, 3, activation="relu", dtype="mixed_float16")(inputs)
    x = kl.SpatialDropout2D(0.5, dtype="mixed_float16")(x)
    x = kl.Conv2D(4, 3, dtype="mixed_float16")(x)
    x = kl.GlobalAveragePooling2D(dtype="mixed_float16")(x)
    return keras.Model(inputs, kl.Dense(3, activation="softmax", dtype="float32")(x))


@entry(real(6), labels)
def activations():
    inputs = keras.Input((6,))
    x = kl.Dense(20)(inputs)
    for activation in (
        kl.ReLU(max_value=6.0),
        kl.ReLU(threshold=0.1),
        kl.LeakyReLU(0.2),
        kl.PReLU(),
        kl.ELU(),
        kl.Activation("hard_sigmoid"),
        kl.UnitNormalization(),
    ):
        x = kl.Dense(20)(activation(kl.Dropout(0.3)(x)))
    return keras.Model(inputs, kl.Softmax()(kl.Dense(3)(x)))


@entry(real(6), labels, inference=None)
def subclassed():
    from tfp_bayes.layers import DenseFlipout, MCDropout

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = DenseFlipout(8, activation="relu")
            self.dropout = MCDropout(0.3)
            self.head = kl.Dense(3, activation="softmax")

        def call(self, inputs):
            return self.head(self.dropout(self.hidden(inputs)))

    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model
