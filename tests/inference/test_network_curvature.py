"""Curvature of whole networks against Jacobians that are formed example by example."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes.inference import network_curvature as module
from tfp_bayes.inference.network_curvature import network_curvature
from tfp_bayes.inference.observations import Observations
from tfp_bayes.layers import NormalParameters

L = keras.layers
RNG = np.random.default_rng(0)
LABELS = {
    "categorical": lambda n: RNG.integers(2, size=n),
    "bernoulli": lambda n: RNG.integers(2, size=(n, 2)),
    "normal": lambda n: RNG.normal(size=(n, 2)),
}


def chain(shape, *layers):
    """A model and all that comes before its link, in double precision."""
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    model = keras.Model(inputs, x)
    model.set_weights([w + 0.3 * RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


def dense(units, activation=None, **kwargs):
    return L.Dense(units, activation, dtype="float64", **kwargs)


def end(likelihood):
    if likelihood == "normal":
        return [dense(4), NormalParameters(dtype="float64")]
    return [dense(2, {"categorical": "softmax", "bernoulli": "sigmoid"}[likelihood])]


def jacobians(model, x, variables):
    """Derivatives of logits, or of locations and scales, (N, E, P)."""
    with tf.GradientTape() as tape:
        p = model(x, training=False)
        eta = p._keras_logits if hasattr(p, "_keras_logits") else p
        eta = tf.convert_to_tensor(eta)
    parts = tape.jacobian(eta, [v.value for v in variables])
    return np.concatenate([np.reshape(j, (*eta.shape, -1)) for j in parts], axis=-1), p.numpy()


def hessians_in_eta(p, likelihood):
    """Second derivatives of the negative log likelihood, (N, E, E), expected under "normal"."""
    if likelihood == "categorical":
        return p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None]
    if likelihood == "bernoulli":
        return (p * (1 - p))[:, :, None] * np.eye(p.shape[1])
    precision = 1 / p[:, 2:] ** 2
    return np.concatenate([precision, 2 * precision], axis=1)[:, :, None] * np.eye(4)


def explicit(model, x, likelihood, variables):
    """The generalized Gauss-Newton matrix (P, P) of some variables."""
    j, p = jacobians(model, x, variables)
    return np.einsum("nep,nef,nfq->pq", j, hessians_in_eta(p, likelihood), j)


def matrix_of(block):
    """H of a layer, (F U, F U) with the weights in the order of kernel and bias."""
    vectors = np.eye(block.eigenvalues.size)
    if block.input_vectors is not None:
        vectors = np.kron(block.input_vectors, block.output_vectors)
    return (vectors * block.eigenvalues.ravel()) @ vectors.T


def gather(model, x, likelihood="categorical", is_diagonal=False):
    y = LABELS[likelihood](len(x))
    return network_curvature(model, x, y, Observations(likelihood), is_diagonal)


NETWORKS = {
    "dense": ((2,), lambda: [dense(3, "tanh")]),
    "without a bias": ((2,), lambda: [dense(3, "tanh", use_bias=False)]),
    "positions": ((4, 2), lambda: [dense(3, "tanh"), L.Flatten(dtype="float64")]),
    "convolution": (
        (5, 6, 2),
        lambda: [
            L.Conv2D(3, (2, 3), strides=(2, 1), padding="same", activation="tanh", dtype="float64"),
            L.MaxPooling2D(dtype="float64"),
            L.Flatten(dtype="float64"),
        ],
    ),
    "dilation": (
        (6, 2),
        lambda: [
            L.Conv1D(3, 3, dilation_rate=2, activation="tanh", dtype="float64"),
            L.Flatten(dtype="float64"),
        ],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_diagonal_is_that_of_explicit_jacobians(name):
    shape, first = NETWORKS[name]
    model = chain(shape, *first(), *end("categorical"))
    x = RNG.normal(size=(7, *shape)).astype("float32")
    found = gather(model, x, is_diagonal=True)
    expected = np.diag(explicit(model, x, "categorical", model.trainable_variables))
    parts = [block.eigenvalues.ravel() for block in found.blocks]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-10, atol=1e-14)
    assert found.left == []


@pytest.mark.parametrize("likelihood", LABELS)
def test_kronecker_is_exact_for_one_example(likelihood):
    model = chain((2,), dense(3, "tanh"), *end(likelihood))
    x = RNG.normal(size=(1, 2)).astype("float32")
    found = gather(model, x, likelihood)
    assert len(found.layers) == 2
    for layer, block in zip(found.layers, found.blocks):
        expected = explicit(model, x, likelihood, layer.variables)
        np.testing.assert_allclose(matrix_of(block), expected, atol=1e-12)


def test_kronecker_of_a_convolution_at_one_position_is_exact_for_one_example():
    conv = L.Conv2D(3, (2, 3), activation="tanh", dtype="float64")
    model = chain((2, 3, 2), conv, L.Flatten(dtype="float64"), *end("categorical"))
    x = RNG.normal(size=(1, 2, 3, 2)).astype("float32")
    found = gather(model, x)
    expected = explicit(model, x, "categorical", conv.trainable_variables)
    np.testing.assert_allclose(matrix_of(found.blocks[0]), expected, atol=1e-12)


def test_kronecker_factors_have_means_of_inputs_and_sums_of_gradients():
    conv = L.Conv2D(3, 2, dtype="float64")
    model = chain((3, 3, 2), conv, L.Flatten(dtype="float64"), *end("categorical"))
    x = RNG.normal(size=(5, 3, 3, 2)).astype("float32")
    rows = [(i, j) for i in range(2) for j in range(2)]
    patches = np.stack([x[:, i : i + 2, j : j + 2].reshape(5, -1) for i, j in rows], axis=1)
    a = np.concatenate([patches, np.ones((5, 4, 1))], axis=-1).astype("float64")
    # Logits are linear in the output of the convolution, whose Jacobian is the next kernel.
    g = model.layers[-1].kernel.numpy().reshape(4, 3, 2)
    hessian = hessians_in_eta(np.asarray(model(x)), "categorical").sum(0)
    gram = np.einsum("ntf,nth->fh", a, a) / 5
    curvature = np.einsum("tuk,kl,tvl->uv", g, hessian, g) / 4
    np.testing.assert_allclose(
        matrix_of(gather(model, x).blocks[0]), np.kron(gram, curvature), atol=1e-12
    )


def test_batches_and_datasets_add_up(monkeypatch):
    shape, first = NETWORKS["convolution"]
    model = chain(shape, *first(), *end("categorical"))
    x, y = RNG.normal(size=(9, *shape)).astype("float32"), RNG.integers(2, size=9)
    categorical = Observations("categorical")
    for is_diagonal in (False, True):
        whole = network_curvature(model, x, y, categorical, is_diagonal)
        monkeypatch.setattr(module, "_MAX_NUMBERS", 1)
        data = tf.data.Dataset.from_tensor_slices((x, y[:, None])).batch(4)
        parts = network_curvature(model, data, None, categorical, is_diagonal)
        monkeypatch.undo()
        assert parts.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-12)
        for a, b in zip(whole.blocks, parts.blocks):
            np.testing.assert_allclose(matrix_of(a), matrix_of(b), atol=1e-12)
    p = np.asarray(model(x))
    assert whole.log_likelihood == pytest.approx(np.log(p[np.arange(9), y]).sum(), abs=1e-9)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_log_likelihoods(likelihood):
    model = chain((2,), *end(likelihood))
    x, y = RNG.normal(size=(6, 2)).astype("float32"), LABELS[likelihood](6)
    found = network_curvature(model, x, y, Observations(likelihood), is_diagonal=False)
    p = np.asarray(model(x))
    if likelihood == "bernoulli":
        expected = np.log(np.where(y == 1, p, 1 - p)).sum()
    else:
        loc, scale = p[:, :2], p[:, 2:]
        density = np.exp(-(((y - loc) / scale) ** 2) / 2) / (scale * np.sqrt(2 * np.pi))
        expected = np.log(density).sum()
    assert found.log_likelihood == pytest.approx(expected, abs=1e-9)


def test_what_is_no_linear_layer_used_once_is_left():
    inputs = keras.Input((4, 2))
    shared = L.Dense(2, name="shared")
    frozen = L.Dense(2, trainable=False)
    adapted = L.Dense(2, name="adapted")
    x = L.TimeDistributed(L.Dense(3, name="each"))(shared(shared(inputs)))
    x = L.Conv1D(4, 2, padding="causal", name="causal")(L.Conv1D(4, 2, groups=1, name="conv")(x))
    x = L.SimpleRNN(3)(L.BatchNormalization()(x))
    x = adapted(frozen(L.Dense(2, L.PReLU(), name="layer_as_activation")(x)))
    model = keras.Model(inputs, L.Dense(2, "softmax", name="last")(x))
    adapted.enable_lora(1)
    found = gather(model, RNG.normal(size=(3, 4, 2)).astype("float32"))
    assert [each.layer.name for each in found.layers] == ["conv", "last"]
    left = {id(v) for v in found.left}
    rest = [v for v in model.trainable_variables if id(v) not in left]
    assert [id(v) for v in rest] == [id(v) for each in found.layers for v in each.variables]


def test_layers_inside_other_models_are_found_and_no_trace_is_left():
    inner = keras.Sequential([keras.Input((2,)), L.Dense(3, "tanh"), L.BatchNormalization()])
    inputs = {"a": keras.Input((2,)), "b": keras.Input((2,), dtype="int32")}
    x = L.Concatenate()([inner(inputs["a"]), keras.ops.cast(inputs["b"], "float32")])
    model = keras.Model(inputs, L.Dense(2, "softmax")(x))

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = model

        def call(self, x):
            return self.inner(x)

    x = {"a": RNG.normal(size=(5, 2)).astype("f4"), "b": RNG.integers(9, size=(5, 2))}
    other = Subclassed()
    before = np.asarray(other(x))
    for each in (model, other):
        y = RNG.integers(2, size=5)
        found = network_curvature(each, x, y, Observations("categorical"), is_diagonal=True)
        assert len(found.layers) == 2
    np.testing.assert_array_equal(other(x), before)
    assert all("call" not in vars(layer) for layer in inner.layers)
    assert inner.layers[0].activation is keras.activations.tanh


def test_half_precision():
    model = chain((2,), dense(8, "tanh"), *end("categorical"))
    inputs = keras.Input((2,))
    x = L.Dense(8, "tanh", dtype="mixed_float16")(inputs)
    half = keras.Model(inputs, L.Dense(2, "softmax", dtype="mixed_float16")(x))
    half.set_weights(model.get_weights())
    x = RNG.normal(size=(20, 2)).astype("float32")
    for a, b in zip(gather(model, x).blocks, gather(half, x).blocks):
        np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, x, y: (m, np.where(x > x.min(), x, np.nan), y), "finite inputs.*rows"),
        (lambda m, x, y: (m, x, None), "targets for `y`"),
        (lambda m, x, y: (m, x, y + 1), r"integer labels in \[0, 2\)"),
        (lambda m, x, y: (m, x, np.eye(2)[y]), r"integer labels in \[0, 2\)"),
        (lambda m, x, y: (m, x[:0], y[:0]), "Received: none"),
        (lambda m, x, y: (chain((2,), dense(2)), x, y), "from a softmax"),
        (lambda m, x, y: (chain((2,), L.Softmax()), x, y), "trainable Dense"),
    ],
)
def test_refusals(change, message):
    x = RNG.normal(size=(5, 2)).astype("float32")
    model = chain((2,), *end("categorical"))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        network_curvature(
            *change(model, x, np.array([0, 1, 0, 1, 1])), Observations("categorical"), False
        )


def test_large_layers_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_MAX_SIZE", 2)
    model = chain((2,), *end("categorical"))
    with pytest.raises(ValueError, match=r"up to 2 inputs.*'diagonal'"):
        gather(model, np.ones((3, 2), "f4"))
    assert len(gather(model, np.ones((3, 2), "f4"), is_diagonal=True).layers) == 1


def test_weighted_examples_are_refused():
    data = tf.data.Dataset.from_tensors((np.ones((3, 2)), np.ones(3, int), np.ones(3)))
    with pytest.raises(ValueError, match="examples of equal weight"):
        network_curvature(
            chain((2,), *end("categorical")), data, None, Observations("categorical"), False
        )
