"""Tests of loss, nll, kl and penalty of a training step, against slow NumPy."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tfp_bayes
from tfp_bayes.layers import DenseFlipout, MCDropout, NormalParameters
from tfp_bayes.losses import NormalNLL

RNG = np.random.default_rng()  # seeded for each test
SCALE = 0.5
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order_of_tests():
    global RNG
    RNG = np.random.default_rng(0)
    keras.utils.set_random_seed(0)


def weights(*shape):
    return RNG.normal(size=shape).astype("float32")


def bayesian(inputs, outputs, likelihood="categorical", **kwargs):
    kwargs = {"prior_scale": SCALE, "num_samples": 1, **kwargs}
    return tfp_bayes.BayesianModel(inputs, outputs, likelihood=likelihood, **kwargs)


def step(model, x, y, **kwargs):
    """Return the history of one step, at the weights before the step."""
    return {
        name: values[0]
        for name, values in model.fit(x, y, batch_size=len(x), verbose=0, **kwargs).history.items()
    }


def penalty(model, prior_scale=SCALE):
    """The Gaussian prior of the kernels of a model without dropout."""
    kernels = [w for w in model.trainable_variables if w.name.endswith("kernel")]
    return sum((w.numpy().astype("float64") ** 2).sum() for w in kernels) / (2 * prior_scale**2)


def check(logs, nll, kl, observations, other=0.0):
    assert logs["nll"] == pytest.approx(nll, rel=TOLERANCE)
    assert logs["kl"] == pytest.approx(kl, rel=TOLERANCE)
    assert logs["loss"] == pytest.approx(nll + kl / observations + other, rel=TOLERANCE)


def classes(y, p):
    """The NLL of each observation, for labels and probabilities."""
    return -np.log(np.take_along_axis(p.astype("float64"), y[..., None], -1)[..., 0])


def coins(y, p):
    return -scipy.stats.bernoulli.logpmf(y, p.astype("float64"))


# One case for each kind of observation. A case returns a model, data, and a function from outputs
# to the NLL of each observation.


def dense(**compiled):
    inputs = keras.Input((5,))
    model = bayesian(inputs, keras.layers.Dense(3, "softmax")(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    return model, weights(12, 5), np.arange(12) % 3, classes


def segmentation():
    inputs = keras.Input((16, 16, 2))
    model = bayesian(
        inputs, keras.layers.Conv2D(3, 3, padding="same", activation="softmax")(inputs)
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy())
    return model, weights(4, 16, 16, 2), RNG.integers(0, 3, (4, 16, 16)), classes


def one_hot():
    model, x, y, _ = dense()
    model.compile("sgd", "categorical_crossentropy")
    y = np.eye(3)[y]
    return model, x, y, lambda y, p: classes(y.argmax(-1), p)


def regression():
    inputs = keras.Input((24, 3))
    model = bayesian(inputs, NormalParameters()(keras.layers.Dense(2)(inputs)), "normal")
    model.compile("sgd", NormalNLL())

    def nll(y, p):
        return -scipy.stats.norm(p[..., 0], p[..., 1]).logpdf(y)

    return model, weights(8, 24, 3), weights(8, 24), nll


def tags(outputs=40):
    inputs = keras.Input((5,))
    model = bayesian(inputs, keras.layers.Dense(outputs, "sigmoid")(inputs), "bernoulli")
    model.compile("sgd", "binary_crossentropy")
    return model, weights(6, 5), RNG.integers(0, 2, (6, outputs)), coins


def one_coin():
    model, x, y, _ = tags(1)
    return model, x, y[:, 0], lambda y, p: coins(y, p[:, 0])


def foreground():
    inputs = keras.Input((6, 4, 2))
    model = bayesian(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(inputs), "bernoulli")
    model.compile("sgd", "binary_crossentropy")
    y = RNG.integers(0, 2, (3, 6, 4))
    return model, weights(3, 6, 4, 2), y, lambda y, p: coins(y, p[..., 0])


def own_loss():
    """The NLL of counts, a likelihood that the library does not have."""
    inputs = keras.Input((5,))
    model = bayesian(inputs, keras.layers.Dense(2, "softplus")(inputs), "bernoulli")
    model.compile("sgd", lambda y, rate: rate - y * keras.ops.log(rate))
    y = RNG.poisson(2, (7, 2))
    return model, weights(7, 5), y, lambda y, rate: rate - y * np.log(rate)


CASES = [dense, segmentation, one_hot, regression, tags, one_coin, foreground, own_loss]


@pytest.mark.parametrize("case", CASES)
def test_loss_nll_and_kl(case):
    model, x, y, nll = case()
    each = nll(y, model(x).numpy())
    kl = penalty(model)
    expected = model.evaluate(x, y, verbose=0)
    check(step(model, x, y), each.mean(), kl, each.size)
    if case is not own_loss:  # its outputs are not probabilities
        assert expected == pytest.approx(each.mean(), rel=TOLERANCE)


@pytest.mark.parametrize("case", [segmentation, tags])
def test_the_gradient_is_that_of_the_whole_bound(case):
    """An SGD step with rate 1 changes weights by d/dw [sum NLL + KL] / observations."""
    model, x, y, nll = case()
    model.optimizer.learning_rate = 1.0
    before, kernel = model.get_weights(), model.layers[1].kernel.numpy()
    size = nll(y, model(x).numpy()).size
    step(model, x, y)
    with_prior = model.layers[1].kernel.numpy()
    model.set_weights(before)
    model.prior_scale = None
    model.compile(keras.optimizers.SGD(1.0), model.loss)
    step(model, x, y)
    without = model.layers[1].kernel.numpy()
    np.testing.assert_allclose(without - with_prior, kernel / SCALE**2 / size, atol=1e-6)


# Masks and weights.


def sequence():
    inputs = keras.Input((7,), dtype="int32")
    embedded = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    hidden = keras.layers.Dense(6, "tanh")(MCDropout(0.0)(embedded))
    model = bayesian(inputs, keras.layers.Dense(3, "softmax")(hidden))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    lengths = np.array([7, 3, 1, 5])
    x = np.where(np.arange(7) < lengths[:, None], RNG.integers(1, 9, (4, 7)), 0)
    return model, x, RNG.integers(0, 3, (4, 7)), lengths


def test_time_steps_that_a_mask_hides_are_no_observations():
    model, x, y, lengths = sequence()
    mask = np.arange(7) < lengths[:, None]
    p = model(x).numpy()
    each, hits = classes(y, p)[mask], (p.argmax(-1) == y)[mask]
    kl = penalty(model)
    for batch_size in (1, 2, 4):
        results = model.evaluate(x, y, batch_size, verbose=0)
        np.testing.assert_allclose(results, [each.mean(), hits.mean()], rtol=1e-5)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0)[0], each.mean(), rtol=1e-5)
    check(step(model, x, y), each.mean(), kl, lengths.sum())


def test_weights_count_examples_and_no_observations():
    model, x, y, _ = sequence()
    mask = x > 0
    weight = np.array([2.0, 0.0, 1.0, 0.5], "float32")
    each = classes(y, model(x).numpy()) * weight[:, None]
    kl = penalty(model)
    nll = each[mask].sum() / mask.sum()
    results = model.evaluate(x, y, sample_weight=weight, verbose=0)
    assert results[0] == pytest.approx(nll, rel=TOLERANCE)
    check(step(model, x, y, sample_weight=weight), nll, kl, mask.sum())


@pytest.mark.parametrize("given", ["class_weight", "sample_weight", "of each pixel"])
def test_weights(given):
    model, x, y, nll = segmentation() if given == "of each pixel" else dense()
    weight = np.array([1.0, 3.0, 0.5])[y] if given == "class_weight" else RNG.uniform(0, 2, y.shape)
    arguments = {"sample_weight": weight}
    if given == "class_weight":
        arguments = {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}
    expected, kl = (weight * nll(y, model(x).numpy())).mean(), penalty(model)
    check(step(model, x, y, **arguments), expected, kl, y.size)


def test_ignored_classes_are_no_observations():
    model, x, y, _ = dense()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(ignore_class=2))
    each, kl = classes(y, model(x).numpy())[y != 2], penalty(model)
    check(step(model, x, y), each.mean(), kl, each.size)


def test_several_outputs():
    """Each pixel and each label is one observation; loss weights multiply log likelihoods."""
    inputs = keras.Input((4, 4, 2), name="image")
    pixels = keras.layers.Conv2D(3, 1, activation="softmax", name="pixels")(inputs)
    flat = keras.layers.Flatten()(inputs)
    label = keras.layers.Dense(2, "sigmoid", name="label")(flat)
    x = weights(5, 4, 4, 2)
    y = {"pixels": RNG.integers(0, 3, (5, 4, 4)), "label": RNG.integers(0, 2, (5, 2))}
    loss = {"pixels": "sparse_categorical_crossentropy", "label": "binary_crossentropy"}
    for names in (True, False):
        outputs = {"pixels": pixels, "label": label} if names else [pixels, label]
        likelihood = {"pixels": "categorical", "label": "bernoulli"}
        given, targets = (loss, y) if names else (list(loss.values()), list(y.values()))
        scales = {"pixels": 2.0, "label": 0.5} if names else [2.0, 0.5]
        model = bayesian(inputs, outputs, likelihood if names else list(likelihood.values()))
        model.compile("sgd", given, loss_weights=scales, metrics=None)
        p = dict(zip(loss, (keras.Model(inputs, [pixels, label])(x))))
        a = classes(y["pixels"], p["pixels"].numpy())
        b = coins(y["label"], p["label"].numpy())
        kl, size = penalty(model), a.size + b.size
        nll = (2 * a.sum() + 0.5 * b.sum()) / size
        results = model.evaluate(x, targets, verbose=0, return_dict=True)
        assert results["loss"] == pytest.approx(nll, rel=TOLERANCE)
        logs = step(model, x, targets)
        check(logs, nll, kl, size)
        for each in (logs, results):
            assert each["pixels_loss"] == pytest.approx(a.mean(), rel=TOLERANCE)
        assert logs["label_loss"] == pytest.approx(b.mean(), rel=TOLERANCE)


# Other terms.


def test_penalties_are_neither_nll_nor_kl():
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1")(inputs)
    model = bayesian(inputs, keras.layers.Dense(3, "softmax")(hidden))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = weights(12, 5), np.arange(12) % 3
    kernel, bias = model.layers[1].get_weights()
    other = 0.01 * (kernel**2).sum() + 0.01 * np.abs(x @ kernel + bias).sum() / 12
    nll, kl = classes(y, model(x).numpy()).mean(), penalty(model)
    logs = step(model, x, y)
    check(logs, nll, kl, 12, other)
    assert logs["penalty"] == pytest.approx(other, rel=TOLERANCE)


@pytest.mark.parametrize("eager", [False, True])
def test_penalties_of_training_do_not_leak_into_evaluation(eager):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, activity_regularizer="l1")(MCDropout(0.5)(inputs))
    outputs = keras.layers.Dense(3, "softmax")(hidden)
    model = bayesian(inputs, outputs, num_samples=5)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eager)
    x, y = weights(12, 5), np.arange(12) % 3
    history = model.fit(x, y, validation_data=(x, y), verbose=0).history
    nll = tfp_bayes.metrics.nll(y, model.predict(x, verbose=0))
    assert history["val_loss"][0] == pytest.approx(nll, rel=1e-5)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(nll, rel=1e-5)
    assert model.test_on_batch(x, y) == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (NormalNLL(beta=0.5), NormalNLL()),
        (keras.losses.CategoricalCrossentropy(label_smoothing=0.2), "categorical_crossentropy"),
    ],
)
def test_what_shapes_training_is_not_in_the_nll(loss, plain):
    model, x, y, nll = regression() if isinstance(plain, NormalNLL) else one_hot()
    model.compile("sgd", loss)
    outputs, kl = model(x).numpy(), penalty(model)
    expected = nll(y, outputs)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected.mean(), rel=TOLERANCE)
    logs = step(model, x, y)
    assert logs["nll"] == pytest.approx(expected.mean(), rel=TOLERANCE)
    target = y[..., None] if y.ndim < outputs.ndim else y
    shaped = float(loss(target, outputs))
    assert abs(shaped - expected.mean()) > 1e-3
    assert logs["loss"] == pytest.approx(shaped + kl / expected.size, rel=TOLERANCE)


# The same loss on every execution path.


@pytest.mark.parametrize("settings", [{"jit_compile": True}, {"run_eagerly": True}])
def test_compiled_by_xla_and_not_at_all(settings):
    model, x, y, nll = dense(**settings)
    expected, kl = nll(y, model(x).numpy()).mean(), penalty(model)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=TOLERANCE)
    check(step(model, x, y), expected, kl, 12)


def test_one_batch_at_a_time_and_a_loop():
    model, x, y, nll = segmentation()
    tfp_bayes.set_kl_weight(model, 1 / 40)  # for 40 examples
    expected, kl = nll(y, model(x).numpy()).mean(), penalty(model)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    assert float(loss) == pytest.approx(expected + kl / 40 / 256, rel=TOLERANCE)
    assert all(g is not None for g in tape.gradient(loss, model.trainable_variables))
    assert model.test_on_batch(x, y) == pytest.approx(expected, rel=TOLERANCE)
    logs = model.train_on_batch(x, y, return_dict=True)
    check(logs, expected, kl, 40 * 256)


def flipout():
    inputs = keras.Input((5,))
    model = bayesian(inputs, DenseFlipout(3, activation="softmax")(inputs), prior_scale=None)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def test_a_loop_of_ones_own_with_variational_layers():
    """The loss uses the terms that layers stated in the call, without drawing again."""
    model, x, y = flipout(), weights(12, 5), np.arange(12) % 3
    tfp_bayes.set_kl_weight(model, 1 / 12)
    kl = float(model.kl_divergence())

    @tf.function
    def one_step(x, y):
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x, y, y_pred)
        return loss, y_pred, tape.gradient(loss, model.trainable_variables)

    for function in (one_step, one_step.python_function):
        loss, p, gradients = function(tf.constant(x), tf.constant(y))
        assert float(loss) == pytest.approx(classes(y, p.numpy()).mean() + kl / 12, rel=1e-5)
        assert model.losses == []
        scale = [g for g, w in zip(gradients, model.trainable_variables) if "scale" in w.name]
        assert all(np.abs(g).max() > 0 for g in scale)
    # Without a call with training=True, no terms are stated, so the model recomputes them.
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, tf.constant(np.full((12, 3), 1 / 3, "float32")))
    assert float(loss) == pytest.approx(np.log(3) + kl / 12, rel=1e-5)
    assert all(np.abs(g).max() > 0 for g in tape.gradient(loss, model.trainable_variables)[:2])


def test_a_draw_of_the_prior_term_is_that_of_the_forward_pass():
    """Under a prior without a closed form, the KL is that of the weights drawn in the pass."""
    inputs = keras.Input((3,))
    layer = tfp_bayes.layers.DenseReparameterization(
        3, kernel_prior="scale_mixture", use_bias=False, name="drawn"
    )
    model = bayesian(inputs, keras.layers.Softmax()(layer(inputs)), prior_scale=None)
    model.compile("sgd", "sparse_categorical_crossentropy")
    state = layer.seed_generator.state.numpy()
    step(model, np.eye(3), np.arange(3))
    assert (layer.seed_generator.state.numpy() != state).sum() == 1
    np.testing.assert_array_equal(layer.seed_generator.state.numpy() - state, [0, 1])


def test_two_replicas(two_replicas):
    """Training and validation on two logical CPU devices equal those on one."""
    with two_replicas.scope():
        mirrored, x, y, _ = tags()
    single, *_ = tags()
    single.set_weights(mirrored.get_weights())
    for model in (mirrored, single):
        model.logs = step(model, x, y, validation_data=(x, y), shuffle=False)
    assert mirrored.logs == pytest.approx(single.logs, rel=1e-5)
    for a, b in zip(mirrored.trainable_variables, single.trainable_variables):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_two_replicas_with_different_numbers_of_time_steps(two_replicas):
    with two_replicas.scope():
        model, x, y, lengths = sequence()
    model.layers[-1].kernel.assign(3 * model.layers[-1].kernel)
    mask = np.arange(7) < lengths[:, None]
    nll = classes(y, model(x).numpy())[mask].mean()
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(nll, rel=1e-5)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((300,))
        hidden = keras.layers.Dense(300, kernel_initializer="ones")(inputs)
        outputs = keras.layers.Dense(3, activation="softmax")(hidden)
        model = bayesian(inputs, outputs, prior_scale=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = 0.01 * weights(6, 300), np.arange(6) % 3
    nll, kl = classes(y, model(x).numpy()).mean(), penalty(model, 0.1)
    assert kl > 4e6  # overflows float16, whose largest is 65504
    logs = step(model, x, y)
    assert logs["nll"] == pytest.approx(nll, rel=1e-3)  # probabilities are rounded
    assert logs["kl"] == pytest.approx(kl, rel=1e-5)
    assert logs["loss"] == pytest.approx(logs["nll"] + kl / 6, rel=1e-5)
