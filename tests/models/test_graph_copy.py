"""Tests that models of many kinds are converted and back, exactly and with all state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import to_bayesian, to_deterministic
from tfp_bayes.layers import stochastic_layers

L = keras.layers
CASES = {}


def case(build):
    """Register a function that returns a model and its inputs."""
    CASES[build.__name__] = build
    return build


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@case
def operations():
    inputs = keras.Input((6,), name="features")
    x = L.Dense(6, name="first")(inputs)
    y = keras.ops.relu(x) + inputs
    y = 1.0 - y[:, 1:5] * 2.0
    y = keras.ops.concatenate([y, keras.ops.where(x > 0, x, 0.1 * x)], axis=-1)
    outputs = L.Dense(3, activation="softmax")(L.Dropout(0.3)(y))
    return keras.Model(inputs, outputs), normal(4, 6)


@case
def u_net():
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.ops.cast(inputs, "float32") / 255.0
    skip = L.SeparableConv2D(4, 3, padding="same", depth_multiplier=2, activation="relu")(x)
    down = L.Conv2D(4, 3, padding="same", groups=2)(L.MaxPooling2D()(skip))
    down = L.GroupNormalization(2)(L.SpatialDropout2D(0.2)(down))
    up = keras.ops.concatenate([L.Conv2DTranspose(4, 2, strides=2)(down), skip], axis=-1)
    outputs = keras.ops.softmax(L.Conv2D(3, 1)(up))
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
    return keras.Model(inputs, outputs), x


@case
def text():
    vectorize = L.TextVectorization(output_sequence_length=6)
    vectorize.adapt(["a b c d", "b c e", "f"])
    inputs = keras.Input((), dtype="string")
    x = L.Embedding(12, 5, mask_zero=True)(vectorize(inputs))
    x = L.Dropout(0.3)(L.Dense(5)(x))
    x = L.LSTM(4, return_sequences=True)(x)
    outputs = L.Dense(2, activation="softmax")(L.Bidirectional(L.GRU(3, dropout=0.2))(x))
    return keras.Model(inputs, outputs), tf.constant(["a b", "c f e d", "unseen"])


@case
def columns():
    """Dict inputs, several outputs, and all preprocessing layers with `adapt`."""
    words, numbers = L.StringLookup(), L.Normalization()
    one_hot, many_hot = L.StringLookup(output_mode="one_hot"), L.IntegerLookup(output_mode="count")
    weighted, bins = L.TextVectorization(output_mode="tf_idf"), L.Discretization(num_bins=4)
    words.adapt(["x", "y", "z"])
    one_hot.adapt(["x", "y", "z"])
    many_hot.adapt([3, 5, 7])
    weighted.adapt(["a b c d", "b c e", "f"])
    numbers.adapt(3 + 2 * normal(30, 4))
    bins.adapt(normal(100, 1))
    inputs = {
        "word": keras.Input((1,), dtype="string", name="word"),
        "numbers": keras.Input((4,), name="numbers"),
        "amount": keras.Input((1,), name="amount"),
        "items": keras.Input((2,), dtype="int64", name="items"),
        "comment": keras.Input((), dtype="string", name="comment"),
    }
    x = L.Concatenate()(
        [
            L.Flatten()(L.Embedding(5, 3)(words(inputs["word"]))),
            one_hot(inputs["word"]),
            numbers(inputs["numbers"]),
            L.Flatten()(L.Embedding(5, 2)(bins(inputs["amount"]))),
            many_hot(inputs["items"]),
            weighted(inputs["comment"]),
        ]
    )
    x = L.Dropout(0.2)(L.Dense(5, "relu")(x))
    outputs = {
        "kind": L.Dense(2, activation="softmax", name="kind")(x),
        "size": L.Dense(3, activation="softmax", name="size")(x),
    }
    x = {
        "word": tf.constant([["x"], ["y"], ["q"]]),
        "numbers": 3 + 2 * normal(3, 4),
        "amount": normal(3, 1),
        "items": np.array([[3, 5], [7, 7], [1, 1]]),
        "comment": tf.constant(["a b", "f", "c c"]),
    }
    return keras.Model(inputs, outputs), x


@case
def frozen():
    """Frozen layers and models, and a trainable layer inside a frozen model."""
    body = keras.Sequential(
        [keras.Input((5,)), L.Dense(6, name="d"), L.BatchNormalization(), L.Dropout(0.1)],
        name="body",
    )
    body.trainable = False
    inputs = keras.Input((5,))
    side_input = keras.Input((5,))
    side = L.Dense(4, name="e")(L.Dense(4, name="d")(side_input))
    side = keras.Model(side_input, side, name="side")
    side.trainable = False
    side.layers[1].trainable = True
    x = L.Concatenate()([body(inputs), side(inputs)])
    x = L.Dense(6, name="fixed", trainable=False)(x)
    x = L.Flatten()(L.SpatialDropout1D(0.2, name="drop")(L.Reshape((3, 2))(x)))
    return keras.Model(inputs, L.Dense(2, activation="softmax", name="out")(x)), normal(3, 5)


@case
def shared():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(5, "relu"), L.Dropout(0.2)], name="inner")
    between = keras.Input((5,))
    middle = keras.Model(between, inner(inner(between)) + between, name="middle")
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    dense = L.Dense(5, name="shared")
    a, b = middle(dense(left)), middle(dense(dense(right)))
    outputs = [L.Dense(2, activation="softmax")(a - b), L.Dense(3, activation="softmax")(inner(b))]
    return keras.Model([left, right], outputs), [normal(3, 5), normal(3, 5) + 1]


@case
def transformer():
    inputs = keras.Input((None, 8))
    attended = L.MultiHeadAttention(2, 4, dropout=0.1)(inputs, inputs, use_causal_mask=True)
    x = L.LayerNormalization()(inputs + attended)
    x = L.LayerNormalization()(x + L.Dropout(0.1)(L.Dense(8)(L.Dense(16, "gelu")(x))))
    x = L.TimeDistributed(L.Dense(4))(x)
    outputs = L.Dense(3, activation="softmax")(keras.ops.mean(x, axis=1))
    return keras.Model(inputs, outputs), normal(2, 7, 8)


@case
def odd():
    """A closure in a Lambda, half precision, a fixed training=False and integer inputs."""
    factor = 3.0
    inputs = keras.Input((4,), dtype="int32")
    x = L.Dense(4, dtype="mixed_float16")(L.Rescaling(0.5)(inputs))
    x = L.Lambda(lambda t: tf.nn.relu(t) * factor)(x)
    x = L.BatchNormalization()(x, training=False)
    x = L.GaussianNoise(0.1)(L.Dropout(0.5)(x))
    return keras.Model([inputs], [L.Dense(3, activation="softmax")(x)]), np.eye(4, dtype="int32")


@case
def augmented():
    layers = [
        *(keras.Input((8, 8, 1), name="images"), L.RandomFlip(seed=0), L.RandomRotation(0.1)),
        *(L.Conv2D(3, 3, name="conv"), L.BatchNormalization(), L.Dropout(0.2)),
        *(L.GlobalAveragePooling2D(), L.Dense(2, activation="softmax")),
    ]
    return keras.Sequential(layers, name="small"), normal(2, 8, 8, 1)


def shaken(model):
    """Move all weights away from initial values, including statistics of normalization."""
    rng = np.random.default_rng(1)
    adapted = [each for each in model._flatten_layers() if isinstance(each, L.Normalization)]
    fixed = {id(weight) for layer in adapted for weight in layer.weights}
    for weight in model.weights:
        if id(weight) not in fixed:
            weight.assign(np.asarray(weight) + rng.uniform(0.01, 0.1, weight.shape))
    return model


def outputs_of(model, x):
    inputs = keras.tree.map_structure(tf.convert_to_tensor, x)
    return [np.asarray(each) for each in keras.tree.flatten(model(inputs, training=False))]


def facts(model):
    """Everything about the layers of a graph except the values of their weights."""
    return [
        (type(each), each.get_config(), [weight.trainable for weight in each.weights])
        for each in model.layers
        if not isinstance(each, L.InputLayer | L.Lambda | keras.Model)
    ]


def names(model):
    return [each.name for each in model.layers if not isinstance(each, L.InputLayer)]


@pytest.fixture(scope="module", params=CASES)
def brought(request):
    model, x = CASES[request.param]()
    return shaken(model), x


@pytest.mark.parametrize("inference", ["mc_dropout", "flipout"])
def test_round_trip_is_exact(brought, inference):
    model, x = brought
    weights = [np.asarray(weight) for weight in model.weights]
    calls = [len(each._inbound_nodes) for each in model._flatten_layers()]
    bayesian = to_bayesian(model, inference, verbose=False)
    back = to_deterministic(bayesian)
    assert not stochastic_layers(back)
    for a, b in zip(outputs_of(model, x), outputs_of(back, x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert facts(back) == facts(model)
    for a, b in zip(model.variables, back.variables, strict=True):
        assert a.trainable == b.trainable
        assert (a.name, a.dtype) == (b.name, b.dtype)
    assert names(bayesian) == names(back) == names(model)
    # The original is unchanged: its weights, and the number of calls of its layers.
    for a, b in zip(weights, model.weights):
        np.testing.assert_array_equal(a, b)
    assert [len(each._inbound_nodes) for each in model._flatten_layers()] == calls


FLAGS = {
    "body": False,
    "body/d": False,
    "side": False,
    "side/d": True,
    "side/e": False,
    "fixed": False,
    "drop": True,
    "out": True,
}


@pytest.mark.parametrize("inference", ["mc_dropout", "flipout"])
def test_frozen_layers_and_models_stay_frozen(inference):
    model, _ = CASES["frozen"]()
    bayesian = to_bayesian(model, inference, verbose=False)
    for path, trainable in FLAGS.items():
        layer = bayesian
        for name in path.split("/"):
            layer = layer.get_layer(name)
        assert layer.trainable is trainable, path
    # The same weights are trained, plus a scale for each kernel. A frozen model trains nothing.
    scales = 2 if inference == "flipout" else 0
    assert len(bayesian.trainable_weights) == len(model.trainable_weights) + scales
    model.trainable = False
    assert not to_bayesian(model, inference, verbose=False).trainable
    assert not to_deterministic(to_bayesian(model, inference, verbose=False)).trainable


def test_a_copy_shares_nothing():
    model, x = CASES["operations"]()
    before = outputs_of(model, x)
    bayesian = to_bayesian(model, prior=None, verbose=False)
    np.testing.assert_array_equal(outputs_of(bayesian, x), before)
    for weight in bayesian.weights:
        weight.assign(np.asarray(weight) + 1)
    np.testing.assert_array_equal(outputs_of(model, x), before)
    mine = {id(each) for each in model.operations}
    assert not mine & {id(each) for each in bayesian.operations}


@pytest.mark.parametrize("change", ["int8", "float8", "lora"])
def test_layers_that_were_changed_after_they_were_built(change):
    layers = [L.Dense(8, name="changed"), L.Dropout(0.2), L.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    x = normal(4, 8)
    if change == "lora":
        layers[0].enable_lora(2)
        shaken(model)
    else:
        layers[0].quantize(change)
    back = to_deterministic(to_bayesian(model, "mc_dropout", verbose=False))
    np.testing.assert_array_equal(outputs_of(back, x), outputs_of(model, x))
    assert [w.trainable for w in back.weights] == [w.trainable for w in model.weights]
    with pytest.raises(ValueError, match=r"Expected no `\w+` for layer 'changed'"):
        to_bayesian(model, "flipout", verbose=False)


def test_layers_called_with_training():
    """Dropout that was kept on by `training=True` becomes Monte Carlo dropout."""
    inputs = keras.Input((6,))
    x = L.Dropout(0.5, name="drop")(L.Dense(6)(inputs), training=True)
    model = keras.Model(inputs, L.Dense(2, activation="softmax")(x))
    bayesian = to_bayesian(model, "mc_dropout", verbose=False)
    y = outputs_of(bayesian, np.ones((8, 6)))[0]
    np.testing.assert_allclose(y, y[:1].repeat(8, 0), atol=1e-6)  # one mask for the whole batch
    for back in (to_deterministic(bayesian), to_deterministic(model)):
        assert np.array_equal(back(np.ones((8, 6))), back(np.ones((8, 6))))


@keras.saving.register_keras_serializable("test_graph_copy")
class Remembering(L.Layer):
    """A custom layer with state outside of its weights, which its own hooks save."""

    known = 0.0

    def call(self, inputs):
        return inputs + self.known

    def save_own_variables(self, store):
        store["known"] = np.array(self.known)

    def load_own_variables(self, store):
        self.known = float(store["known"])


class Unregistered(L.Layer):
    """A custom layer without get_config."""

    def __init__(self, function):
        super().__init__(name="mine")
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


class OwnCall(keras.Model):
    """A functional model whose `call` does not run its graph."""

    def call(self, inputs, training=None):
        return 1 - super().call(inputs, training=training)


def test_layers_of_a_user():
    layer = Remembering()
    model = keras.Sequential([keras.Input((3,)), layer, L.Dense(2, activation="softmax")])
    layer.known = 2.0
    bayesian = to_bayesian(model, verbose=False)
    np.testing.assert_array_equal(
        outputs_of(to_deterministic(bayesian), np.ones((2, 3))), outputs_of(model, np.ones((2, 3)))
    )
    model = keras.Sequential([keras.Input((3,)), Unregistered(tf.nn.relu), L.Dense(2)])
    with pytest.raises(ValueError, match=r"Received: 'mine' of type Unregistered, which raised"):
        to_bayesian(model, verbose=False)
    own = OwnCall(model.inputs, model.outputs, name="own")
    with pytest.raises(ValueError, match=r"does not override `call`\. Received: 'own' of type"):
        to_deterministic(own)
