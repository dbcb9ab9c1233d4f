"""Tests that a BatchEnsemble equals an ensemble of explicit networks with kernels W * r s^T."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import vectors

import tfp_bayes
from tfp_bayes import Predictor
from tfp_bayes.inference import BatchEnsemble, BatchEnsemblePosterior
from tfp_bayes.inference.member_training import Members
from tfp_bayes.inference.rank_one import factor_shapes

L = keras.layers
NUM_MEMBERS = 3
X = vectors(22)
Y = X[:, :3].argmax(1)
IMAGES = np.random.default_rng(0).normal(size=(22, 4, 4, 2)).astype("float32")


def convolutional():
    """Build a network with a skip connection, statistics, a penalty and two kinds of kernels."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    x = L.BatchNormalization()(L.Conv2D(2, 3, padding="same", kernel_regularizer="l2")(inputs))
    x = L.Flatten()(L.Activation("tanh")(x) + inputs)
    return keras.Model(inputs, L.Dense(3, "softmax")(x))


def compile_eagerly(model, optimizer):
    """Compile for eager execution, which is faster than tracing for one or two steps."""
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)


def dense(*layers, optimizer="sgd", run_eagerly=True, **compiled):
    keras.utils.set_random_seed(0)
    inputs = outputs = keras.Input((5,))
    for layer in layers or [L.Dense(3, "softmax")]:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    compiled.setdefault("loss", "sparse_categorical_crossentropy")
    model.compile(optimizer, run_eagerly=run_eagerly, **compiled)
    return model


def fit(model, x=X, y=Y, *, num_members=NUM_MEMBERS, split_batches=False, **arguments):
    """Fit a BatchEnsemble, with one step by default."""
    method = BatchEnsemble(num_members, split_batches=split_batches, seed=1)
    return method.fit(model, x, y, **{"epochs": 1, "batch_size": len(x), "verbose": 0, **arguments})


def explicit(posterior):
    """Yield the weights of each member, multiplied out in NumPy from the posterior's arrays."""
    arrays, _ = posterior.get_state()
    for m in range(posterior.num_draws):
        values = []
        for i in range(len(posterior.variables)):
            if f"own_{i}" in arrays:
                values.append(arrays[f"own_{i}"][m])
            else:
                shared = arrays[f"shared_{i}"]
                r = arrays[f"rows_{i}"][m].reshape(shared.shape[-2])
                s = arrays[f"columns_{i}"][m].reshape(shared.shape[-1])
                values.append(shared * np.outer(r, s))
        yield values


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@pytest.fixture(scope="module")
def trained():
    """A convolutional network after a few steps."""
    model = convolutional()
    model.compile("adam", "sparse_categorical_crossentropy")
    return model, fit(model, IMAGES, Y, epochs=3, batch_size=8)


def test_a_dense_layer_computes_the_equation_of_the_paper():
    model = dense(L.Dense(3), loss="mse", optimizer=keras.optimizers.SGD(0.1))
    posterior = fit(model, X, X[:, :3])
    arrays, _ = posterior.get_state()
    for m in range(NUM_MEMBERS):
        r, s = arrays["rows_0"][m, :, 0], arrays["columns_0"][m, 0]
        expected = ((X * r) @ arrays["shared_0"]) * s + arrays["own_1"][m]
        assign(posterior.variables, posterior.draw(m, None))
        np.testing.assert_allclose(model(X), expected, atol=1e-5)


def test_predictions_are_those_of_explicit_networks(trained):
    model, posterior = trained
    p = Predictor(model, posterior=posterior).predict_uncertainty(IMAGES, return_samples=True)
    network = convolutional()
    number = {id(v): i for i, v in enumerate(model.weights)}
    of_network = [network.weights[number[id(v)]] for v in posterior.variables]
    expected = []
    for values in explicit(posterior):
        assign(of_network, values)
        expected.append(network(IMAGES, training=False).numpy())
    np.testing.assert_allclose(p.samples, expected, atol=1e-5)
    np.testing.assert_allclose(p.mean, np.mean(expected, 0), atol=1e-5)
    np.testing.assert_allclose(p.epistemic_variance, np.var(expected, 0), atol=1e-6)
    assert p.epistemic_variance.mean() > 1e-4
    for center, *values in zip(posterior.center(), *explicit(posterior), strict=True):
        np.testing.assert_allclose(center, np.mean(values, 0), atol=1e-6)


def test_the_model_ends_as_its_first_member(trained):
    model, posterior = trained
    samples = Predictor(model, posterior=posterior).sample(IMAGES)
    np.testing.assert_allclose(model(IMAGES, training=False), samples[0], atol=1e-6)


def rows_of(member, split_batches, size):
    if not split_batches:
        return np.arange(size)
    return (member + NUM_MEMBERS * np.arange(-(-size // NUM_MEMBERS))) % size


@pytest.mark.parametrize(("split_batches", "size"), [(False, 22), (True, 22), (True, 2)])
def test_a_step_follows_the_gradients_of_explicit_networks(split_batches, size):
    rate, (x, y) = 0.5, (IMAGES[:size], Y[:size])
    data = tf.data.Dataset.from_tensors((x, y))  # a dataset keeps the order of rows
    states = []
    for each in (0.0, rate):  # a step with rate 0 gives the initial weights of the members
        model = convolutional()
        compile_eagerly(model, keras.optimizers.SGD(each))
        states.append(fit(model, data, None, split_batches=split_batches, shuffle=False))
    before, after = (each.get_state()[0] for each in states)

    network = convolutional()
    compile_eagerly(network, "sgd")
    trainable, statistics = network.trainable_variables, network.non_trainable_variables
    start = [v.numpy() for v in statistics]
    expected = {name: value.copy() for name, value in before.items()}
    for m, values in enumerate(explicit(states[0])):
        assign([*trainable, *statistics], [*values[: len(trainable)], *start])
        rows = rows_of(m, split_batches, size)
        with tf.GradientTape() as tape:
            outputs = network(x[rows], training=True)
            loss = network.compute_loss(x[rows], y[rows], outputs) / NUM_MEMBERS
        gradients = tape.gradient(loss, [v.value for v in trainable])
        for i, g in enumerate(np.asarray(each) for each in gradients):
            if f"own_{i}" in before:
                expected[f"own_{i}"][m] -= rate * g
                continue
            w, r, s = (before[f"{name}_{i}"] for name in ("shared", "rows", "columns"))
            axes = tuple(range(g.ndim - 2))
            expected[f"shared_{i}"] -= rate * g * r[m] * s[m]
            expected[f"rows_{i}"][m] -= rate * (g * w * s[m]).sum((*axes, -1), keepdims=True)
            expected[f"columns_{i}"][m] -= rate * (g * w * r[m]).sum((*axes, -2), keepdims=True)
        for j, v in enumerate(statistics):  # statistics after the pass of this member
            expected[f"own_{len(trainable) + j}"][m] = v
    for name, value in expected.items():
        np.testing.assert_allclose(after[name], value, atol=2e-5, err_msg=name)


def test_all_layers_agree_where_the_axis_of_the_batch_is_folded():
    inputs = keras.Input((4, 5))
    x = L.TimeDistributed(L.Dense(5, "tanh"))(inputs)
    x = keras.ops.reshape(L.MultiHeadAttention(2, 3)(x, x), (-1, 5))  # rows are steps from here
    outputs = keras.ops.reshape(L.Dense(3, "softmax")(x), (-1, 4, 3))
    model = keras.Model(inputs, outputs)
    compile_eagerly(model, keras.optimizers.SGD(0.0))
    x, y = vectors(8 * 4).reshape(8, 4, 5), np.arange(32).reshape(8, 4) % 3
    logs = {}
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, found: logs.update(found))
    data = tf.data.Dataset.from_tensors((x, y))
    posterior = fit(
        model, data, None, num_members=2, split_batches=True, shuffle=False, callbacks=seen
    )
    nll = []
    for m in range(2):
        assign(posterior.variables, posterior.draw(m, None))
        probabilities = np.take_along_axis(model(x[m::2]).numpy(), y[m::2, :, None], -1)
        nll.append(-np.log(probabilities).mean())
    assert abs(nll[0] - nll[1]) > 0.01  # a mixture would have another loss
    assert logs["loss"] == pytest.approx(np.mean(nll), rel=1e-5)


def test_factors_of_each_kind_of_kernel():
    inputs = keras.Input((6, 5))
    x = L.Conv1D(4, 3, name="conv")(inputs)
    x = L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", name="einsum")(x)
    x = L.Reshape((4, 6))(x)
    model = keras.Model(inputs, L.LSTM(2, name="lstm")(x))
    shapes = factor_shapes(model)
    of = {v.path: shapes.get(id(v)) for v in model.trainable_variables}
    assert of["conv/kernel"] == ((1, 5, 1), (1, 1, 4))
    assert of["einsum/kernel"] == ((4, 1, 1), (1, 2, 3))
    assert of["lstm/lstm_cell/recurrent_kernel"] == ((2, 1), (1, 8))
    assert all(shape is None for path, shape in of.items() if path.endswith("bias"))


def test_factors_are_random_around_one():
    model = keras.Sequential([keras.Input((40,)), L.Dense(60, use_bias=False)])
    first, second = (Members(model, 8, 0.3, seed).get_state() for seed in (1, 2))
    for name, size in (("rows_0", 320), ("columns_0", 480)):
        values = first[name].ravel()
        assert len(np.unique(values)) == size
        assert abs(values.mean() - 1) < 4.5 * 0.3 / np.sqrt(size)
        assert abs(values.std() / 0.3 - 1) < 4.5 / np.sqrt(2 * size)
        assert (first[name] != second[name]).all()


def test_losses_and_metrics_are_means_over_members():
    layer = L.Dense(3, "softmax", activity_regularizer="l2")
    optimizer = keras.optimizers.SGD(0.0)
    model = dense(layer, optimizer=optimizer, metrics=["accuracy"])
    weight, logs = np.linspace(0, 2, len(X)), {}
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, found: logs.update(found))
    posterior = fit(model, sample_weight=weight, validation_data=(X[:9], Y[:9]), callbacks=seen)
    found = []
    for m in range(NUM_MEMBERS):
        assign(posterior.variables, posterior.draw(m, None))
        of_all = model.evaluate(X, Y, sample_weight=weight, verbose=0, return_dict=True)
        of_some = model.evaluate(X[:9], Y[:9], verbose=0, return_dict=True)
        found.append({**of_all, **{f"val_{name}": value for name, value in of_some.items()}})
    assert sorted(found[0]) == sorted(logs)
    for name, value in logs.items():
        assert value == pytest.approx(np.mean([each[name] for each in found]), rel=1e-5), name


def test_the_prior_is_that_of_kernels_multiplied_out():
    inputs = keras.Input((5,))
    x = tfp_bayes.layers.MCDropout(0.5)(L.Dense(4, "tanh")(inputs))
    outputs = L.Dense(3, "softmax")(x)
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=0.7)
    compile_eagerly(model, keras.optimizers.SGD(0.0))
    logs = {}
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, found: logs.update(found))
    posterior = fit(model, callbacks=seen, validation_data=(X, Y))
    assert sorted(logs) == ["kl", "loss", "nll", "val_loss"]
    penalties = []
    for m in range(NUM_MEMBERS):
        assign(posterior.variables, posterior.draw(m, None))
        penalties.append(float(model.prior_penalty()))
    assert logs["kl"] == pytest.approx(np.mean(penalties), rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["nll"] + logs["kl"] / len(X), rel=1e-5)
    # With dropout, each draw may be used several times, but all must be used equally often.
    p = Predictor(model, posterior=posterior).predict_uncertainty(X, 2 * NUM_MEMBERS, seed=0)
    assert p.mean.shape == (22, 3)


def test_each_pass_has_noise_of_its_own():
    dropout = L.Dropout(0.5)
    posterior = fit(dense(dropout, L.Dense(3, "softmax")), epochs=4)
    assert posterior.num_draws == NUM_MEMBERS
    assert int(dropout.seed_generator.state.value[1]) == 4 * NUM_MEMBERS


def test_factors_are_not_decayed():
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    model = dense(optimizer=optimizer)
    kernel, shown = model.layers[1].kernel.numpy(), model.optimizer.iterations
    none = np.zeros(len(X))
    first, then = (fit(model, sample_weight=none, epochs=n).get_state()[0] for n in (1, 2))
    for name in ("rows_0", "columns_0"):
        np.testing.assert_array_equal(first[name], then[name])
    np.testing.assert_allclose(first["shared_0"], kernel / 2, rtol=1e-6)
    assert int(shown) == 0
    assert model.optimizer is optimizer


def test_two_replicas_take_the_step_of_one_device(two_replicas):
    ends = []
    with two_replicas.scope():
        mirrored = dense(L.Dense(4, "tanh"), L.Dense(3, "softmax"), run_eagerly=False)
    single = dense(L.Dense(4, "tanh"), L.Dense(3, "softmax"), run_eagerly=False)
    single.set_weights(mirrored.get_weights())
    for model in (mirrored, single):
        ends.append(fit(model, X[:20], Y[:20], batch_size=20, epochs=2).get_state()[0])
    for name, value in ends[0].items():
        np.testing.assert_allclose(value, ends[1][name], atol=1e-6, err_msg=name)


def test_frozen_layers_are_shared():
    model = dense(L.Dense(4, trainable=False), L.Dense(3, "softmax"))
    posterior = fit(model)
    assert [v.path for v in posterior.variables] == [v.path for v in model.layers[2].weights]


def test_a_finite_posterior_counts_each_member_once(trained):
    model, posterior = trained
    with pytest.raises(ValueError, match="Expected the posterior's 3 draws for `num_samples`"):
        Predictor(model, posterior=posterior).predict_uncertainty(IMAGES, 4)


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


def own_step():
    model = OwnStep([keras.Input((5,)), L.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


REFUSED = {
    "layer.trainable = True": lambda: dense(L.Dense(3, "softmax", trainable=False)),
    "custom train_step in OwnStep": own_step,
    "random weights in layer 'flip'": lambda: dense(
        tfp_bayes.layers.DenseFlipout(3, "softmax", name="flip")
    ),
    "constraints on": lambda: dense(L.Dense(3, "softmax", kernel_constraint="non_neg")),
    "use_ema": lambda: dense(optimizer=keras.optimizers.SGD(use_ema=True)),
    "of type Dense": lambda: dense(L.SpectralNormalization(L.Dense(3, "softmax"))),
    "a random state that no layer owns": lambda: dense(
        L.Lambda(lambda x: x + keras.random.normal(tf.shape(x))), L.Dense(3, "softmax")
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_models_that_it_cannot_train(message):
    model = REFUSED[message]()
    with pytest.raises(ValueError, match=message):
        fit(model)
    assert "train_step" not in vars(model)


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping("loss", restore_best_weights=True),
        keras.callbacks.ModelCheckpoint("model.keras"),
    ],
)
def test_refuses_callbacks_that_keep_weights(callback):
    with pytest.raises(ValueError, match=f"Received: {type(callback).__name__}"):
        fit(dense(), callbacks=[callback])


def test_refuses_what_diverged():
    with pytest.raises(ValueError, match="training diverged"):
        fit(dense(optimizer=keras.optimizers.SGD(1e30), loss="mse"), X, X[:, :3], epochs=3)


@pytest.mark.parametrize(
    "settings", [{"num_members": 0}, {"factor_scale": 0.0}, {"seed": -1}, {"factor_scale": True}]
)
def test_refuses_settings(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        BatchEnsemble(**settings)


@pytest.mark.parametrize(
    "part",
    [
        {"own": np.ones((2, 4, 3))},
        {"shared": np.ones((5, 3)), "rows": np.ones((2, 5, 1))},
        {"shared": np.ones((5, 3)), "rows": np.ones((2, 5, 1)), "columns": np.ones((3, 1, 3))},
        {"shared": np.ones((5, 3)), "rows": np.ones((2, 5)), "columns": np.ones((2, 1, 3))},
        {"own": np.ones((0, 5, 3))},
    ],
)
def test_refuses_parts_of_other_shapes(part):
    model = dense()
    with pytest.raises(ValueError, match=r"Expected `parts` for variables of shapes \[\(5, 3\)\]"):
        BatchEnsemblePosterior(model, [part], model.weights[:1])
