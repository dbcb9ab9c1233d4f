"""Tests of the curvature of whole networks against explicit Jacobians of each example."""

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import tensorflow as tf

from tfp_bayes.inference import network_curvature as module
from tfp_bayes.inference.network_curvature import network_curvature
from tfp_bayes.inference.observations import OBSERVATIONS
from tfp_bayes.layers import NormalParameters

L = keras.layers
RNG = np.random.default_rng(0)
LABELS = {
    "categorical": lambda n: RNG.integers(2, size=n),
    "bernoulli": lambda n: RNG.integers(2, size=(n, 2)),
    "normal": lambda n: RNG.normal(size=(n, 2)),
}


def chain(shape, *layers):
    """Build a model from layers, with randomly changed weights."""
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
    """Compute derivatives of the inputs of the links at all positions (M, E, P), per output."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = keras.tree.flatten(model(x, training=False))
        etas = [tf.convert_to_tensor(getattr(p, "_keras_logits", p)) for p in outputs]
    result = []
    for eta, p in zip(etas, outputs):
        parts = tape.jacobian(
            eta,
            [v.value for v in variables],
            unconnected_gradients="zero",
            experimental_use_pfor=False,
        )
        parts = [
            np.reshape(tf.convert_to_tensor(j), (-1, eta.shape[-1], size(v)))
            for j, v in zip(parts, variables)
        ]
        result.append((np.concatenate(parts, axis=-1), np.reshape(p, (-1, p.shape[-1]))))
    return result


def size(v):
    return int(np.prod(v.shape))


def hessians_in_eta(p, likelihood):
    """Return second derivatives of the negative log likelihood (N, E, E).

    Under "normal" they are expectations over targets.
    """
    if likelihood == "categorical":
        return p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None]
    if likelihood == "bernoulli":
        return (p * (1 - p))[:, :, None] * np.eye(p.shape[1])
    precision = 1 / p[:, 2:] ** 2
    return np.concatenate([precision, 2 * precision], axis=1)[:, :, None] * np.eye(4)


def explicit(model, x, likelihood, variables):
    """Compute the generalized Gauss-Newton matrix (P, P) of some variables explicitly."""
    names = np.broadcast_to(likelihood, len(model.outputs))
    return sum(
        np.einsum("nep,nef,nfq->pq", j, hessians_in_eta(p, name), j)
        for (j, p), name in zip(jacobians(model, x, variables), names)
    )


def explicit_blocks(model, x, likelihood, layers):
    """Compute the diagonal block of that matrix for each layer, in one pass."""
    variables = [v for each in layers for v in each.variables]
    whole = explicit(model, x, likelihood, variables)
    ends = np.cumsum([sum(map(size, each.variables)) for each in layers])
    return [whole[a:b, a:b] for a, b in zip([0, *ends], ends)]


def matrix_of(block):
    """Return H of a layer (G F U, G F U), with the weights in the order of its matrices."""
    parts = []
    for g, values in enumerate(block.eigenvalues):
        vectors = [np.eye(size) if v is None else v[g] for size, v in zip(values.shape, block[1:])]
        vectors = np.kron(*vectors)
        parts.append((vectors * values.ravel()) @ vectors.T)
    return scipy.linalg.block_diag(*parts)


def in_order(found):
    """Return the eigenvalues of a diagonal curvature in the order of the variables."""
    pairs = zip(found.layers, found.blocks)
    parts = [np.ravel(p) for each, block in pairs for p in each.split(block.eigenvalues)]
    return np.concatenate(parts), [v for each in found.layers for v in each.variables]


def per_variable(found):
    """Return pairs of the eigenvalues of a diagonal curvature and a variable."""
    pairs = zip(found.layers, found.blocks)
    return [
        pair for each, block in pairs for pair in zip(each.split(block.eigenvalues), each.variables)
    ]


def gather(model, x, likelihood="categorical", is_diagonal=False):
    y = LABELS[likelihood](len(x))
    return network_curvature(model, x, y, [OBSERVATIONS[likelihood]()], is_diagonal)


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
            L.Conv1D(3, 3, dilation_rate=2, activation="tanh", padding="causal", dtype="float64"),
            L.Flatten(dtype="float64"),
        ],
    ),
    "groups": (
        (4, 5, 2),
        lambda: [
            L.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh", dtype="float64"),
            L.Conv2D(4, 2, groups=2, activation="tanh", padding="same", dtype="float64"),
            L.SeparableConv2D(3, 2, strides=2, activation="tanh", dtype="float64"),
            L.Reshape((2, 1, 1, 3), dtype="float64"),
            L.Conv3D(2, (2, 1, 1), activation="tanh", dtype="float64"),
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
    values, variables = in_order(found)
    expected = np.diag(explicit(model, x, "categorical", variables))
    np.testing.assert_allclose(values, expected, rtol=1e-10, atol=1e-14)
    assert found.left == []


def transformer(length):
    """Build a model of tokens with a class at each position and two outcomes per sequence.

    A Dense layer is used twice, and the first EinsumDense has a kernel for each head.
    """
    inputs = keras.Input((length,), dtype="int32")
    x = L.Embedding(5, 4, dtype="float64")(inputs)
    x = x + L.MultiHeadAttention(2, 3, value_dim=2, dtype="float64")(x, x)
    x = L.LayerNormalization(dtype="float64")(x)
    shared = dense(4, "tanh")
    x = shared(shared(x) + 1.0)
    x = L.Reshape((length, 2, 2), dtype="float64")(x)
    heads = L.EinsumDense("...hc,hcd->...hd", (2, 3), bias_axes="hd", dtype="float64")
    x = L.Reshape((length, 6), dtype="float64")(keras.ops.tanh(heads(x)))
    pooled = L.GlobalAveragePooling1D(dtype="float64")(x)
    whole = L.EinsumDense("ab,bc->ac", 2, activation="sigmoid", bias_axes="c", dtype="float64")
    model = keras.Model(inputs, {"tags": dense(3, "softmax")(x), "whole": whole(pooled)})
    model.set_weights([w + 0.3 * RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


def tokens(n, length):
    y = {"tags": RNG.integers(3, size=(n, length)), "whole": RNG.integers(2, size=(n, 2))}
    return RNG.integers(5, size=(n, length)), y


OF_BOTH = ["categorical", "bernoulli"]


def observe(names):
    return [OBSERVATIONS[name]() for name in names]


def test_diagonal_of_attention_shared_layers_positions_and_several_outputs():
    model = transformer(3)
    x, y = tokens(2, 3)
    found = network_curvature(model, x, y, observe(OF_BOTH), is_diagonal=True)
    assert found.left == []
    values, variables = in_order(found)
    expected = np.diag(explicit(model, x, OF_BOTH, variables))
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-14)
    p = model(x)
    chosen = np.take_along_axis(p["tags"].numpy(), y["tags"][..., None], -1)
    answers = np.where(y["whole"] == 1, p["whole"], 1 - p["whole"])
    expected = np.log(chosen).sum() + np.log(answers).sum()
    assert found.log_likelihood == pytest.approx(expected, abs=1e-9)


def test_many_positions_share_passes_by_random_signs():
    length, num_examples = 20, 300
    model = chain(
        (length, 1), L.Conv1D(2, 3, activation="tanh", dtype="float64"), dense(2, "softmax")
    )
    one = RNG.normal(size=(1, length, 1)).astype("float32")
    x, y = np.repeat(one, num_examples, 0), RNG.integers(2, size=(num_examples, 18))
    found = network_curvature(model, x, y, observe(["categorical"]), is_diagonal=True)
    values, variables = in_order(found)
    ((j, p),) = jacobians(model, one, variables)  # 18 positions; the first and last share a pass
    roots = np.sqrt(p)[:, :, None] * (np.eye(2) - p[:, None])  # (T, c, E)
    parts = np.einsum("tce,tep->tcp", roots, j)
    expected = num_examples * np.square(parts).sum(axis=(0, 1))
    spread = np.sqrt(num_examples * np.square(2 * parts[0] * parts[17]).sum(0))
    z = (values - expected) / np.where(spread > 0, spread, 1)
    assert np.abs(z).max() < 5.5
    assert np.abs(z).max() > 1e-3  # because it is an estimate
    assert np.abs(values / expected - 1).max() < 0.1


def test_masked_positions_are_not_seen():
    def tagger():
        inputs = keras.Input((4,), dtype="int32")
        x = L.Embedding(5, 2, mask_zero=True, dtype="float64")(inputs)
        return keras.Model(inputs, dense(3, "softmax")(x))

    model, other = tagger(), tagger()
    tokens, y = np.array([[1, 2, 0, 0], [3, 4, 4, 0]]), RNG.integers(3, size=(2, 4))
    found = network_curvature(model, tokens, y, observe(["categorical"]), is_diagonal=True)
    values, variables = in_order(found)
    ((j, p),) = jacobians(model, tokens, variables)
    seen = np.flatnonzero(tokens)
    hessians = hessians_in_eta(p, "categorical")[seen]
    expected = np.einsum("nep,nef,nfp->p", j[seen], hessians, j[seen])
    np.testing.assert_allclose(values, expected, atol=1e-12)
    log_p = np.log(np.take_along_axis(p, y.reshape(-1, 1), -1)[seen])
    assert found.log_likelihood == pytest.approx(log_p.sum(), abs=1e-12)
    # Each of several outputs has its own mask.
    two = keras.Model([model.input, other.input], [model.output, other.output])
    data = [tokens, np.array([[1, 0, 0, 0], [2, 1, 0, 0]])], [y, y]
    both = network_curvature(two, *data, observe(["categorical"] * 2), is_diagonal=True)
    alone = network_curvature(other, data[0][1], y, observe(["categorical"]), is_diagonal=True)
    expected = {id(v): values for values, v in per_variable(found) + per_variable(alone)}
    for values, v in per_variable(both):
        np.testing.assert_allclose(values, expected[id(v)], atol=1e-12)


def separable():
    one_position = [
        L.SeparableConv2D(3, 2, dtype="float64", activation="tanh"),
        L.DepthwiseConv2D(1, depth_multiplier=2, activation="tanh", dtype="float64"),
    ]
    model = chain((2, 2, 2), *one_position, L.Flatten(dtype="float64"), *end("bernoulli"))
    return model, RNG.normal(size=(1, 2, 2, 2)).astype("f4"), np.array([[0, 1]]), ["bernoulli"]


@pytest.mark.parametrize(
    "make", [lambda: (transformer(1), *tokens(1, 1), OF_BOTH), separable], ids=["tokens", "images"]
)
def test_kronecker_of_one_example_at_one_position_is_exact_in_each_matrix(make):
    model, x, y, likelihoods = make()
    found = network_curvature(model, x, y, observe(likelihoods), is_diagonal=False)
    assert found.left == []
    num_exact = 0
    hessians = explicit_blocks(model, x, likelihoods, found.layers)
    for layer, block, hessian in zip(found.layers, found.blocks, hessians):
        if len(layer.layer._inbound_nodes) == 2:
            continue  # it is called twice, so it has two positions
        numbers = np.arange(np.prod(layer.shape)).reshape(layer.shape)
        order = np.concatenate([np.ravel(part) for part in layer.split(numbers)]).astype(int)
        expected = np.empty((len(order),) * 2)
        expected[np.ix_(order, order)] = hessian
        mask = scipy.linalg.block_diag(
            *[np.ones((layer.shape[1] * layer.shape[2],) * 2)] * layer.shape[0]
        )
        np.testing.assert_allclose(matrix_of(block), expected * mask, atol=1e-12)
        num_exact += np.abs(expected).max() > 1e-8
    assert num_exact >= len(found.layers) - 4  # with one position, attention has no gradient


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
    categorical = [OBSERVATIONS["categorical"]()]
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
    found = network_curvature(model, x, y, [OBSERVATIONS[likelihood]()], is_diagonal=False)
    p = np.asarray(model(x))
    if likelihood == "bernoulli":
        expected = np.log(np.where(y == 1, p, 1 - p)).sum()
    else:
        loc, scale = p[:, :2], p[:, 2:]
        expected = scipy.stats.norm.logpdf(y, loc, scale).sum()
    assert found.log_likelihood == pytest.approx(expected, abs=1e-9)


def test_what_is_no_linear_map_of_its_own_weights_is_left():
    inputs = keras.Input((4, 2))
    tied = L.Dense(2, name="tied")

    class Tie(L.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self._kernel = tied._kernel

    frozen, adapted = L.Dense(2, trainable=False), L.Dense(2, name="adapted")
    x = L.TimeDistributed(L.Dense(3, name="each"))(Tie(2)(tied(inputs)))
    x = L.Conv1D(4, 2, name="conv")(x)
    x = L.LayerNormalization(axis=[1])(L.EinsumDense("abc,cd->ad", 4, name="sum")(x))
    x = L.SimpleRNN(3)(L.BatchNormalization()(L.Reshape((2, 2))(x)))
    x = adapted(frozen(L.Dense(2, L.PReLU(), name="layer_as_activation")(x)))
    model = keras.Model(inputs, L.Dense(2, "softmax", name="last")(x))
    adapted.enable_lora(1)
    found = gather(model, RNG.normal(size=(3, 4, 2)).astype("float32"))
    assert [each.layer.name for each in found.layers] == ["each", "conv", "sum", "last"]
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
        found = network_curvature(each, x, y, [OBSERVATIONS["categorical"]()], is_diagonal=True)
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
        (lambda m, x, y: (chain((2,), L.Softmax()), x, y), "such as Dense"),
    ],
)
def test_refusals(change, message):
    x = RNG.normal(size=(5, 2)).astype("float32")
    model = chain((2,), *end("categorical"))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        network_curvature(
            *change(model, x, np.array([0, 1, 0, 1, 1])), [OBSERVATIONS["categorical"]()], False
        )


def test_large_layers_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_MAX_SIZE", 2)
    model = chain((2,), *end("categorical"))
    with pytest.raises(ValueError, match=r"at most 2 inputs.*'diagonal'"):
        gather(model, np.ones((3, 2), "f4"))
    assert len(gather(model, np.ones((3, 2), "f4"), is_diagonal=True).layers) == 1


def test_weighted_examples_are_refused():
    data = tf.data.Dataset.from_tensors((np.ones((3, 2)), np.ones(3, int), np.ones(3)))
    with pytest.raises(ValueError, match="examples of equal weight"):
        network_curvature(
            chain((2,), *end("categorical")), data, None, [OBSERVATIONS["categorical"]()], False
        )
