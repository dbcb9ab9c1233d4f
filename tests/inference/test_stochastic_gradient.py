"""Tests of samplers against the exact stationary distribution of a finite step, and of cycles."""

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

import tfp_bayes
from tfp_bayes import Predictor
from tfp_bayes.inference import SGHMC, SGLD, CyclicalSGHMC, load_posterior
from tfp_bayes.inference.stochastic_gradient import CosineCycles, LateNoise

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 4)).astype("float32"), RNG.integers(0, 3, 48)
MAX_Z = 5.5
CHAINS = 20_000


def run(optimizer, curvature, steps):
    """Return weights and velocities of independent chains on a quadratic with given curvature."""
    weights = keras.Variable(np.zeros(CHAINS, "float32"))
    optimizer.build([weights])

    @tf.function
    def chain():
        for _ in tf.range(steps):
            optimizer.apply([curvature * weights.value])

    chain()
    velocities = getattr(optimizer, "velocities", [weights])[0]
    return weights.numpy().astype("float64"), velocities.numpy().astype("float64")


def z_of_product(a, b, expected):
    products = a * b
    return abs(products.mean() - expected) / (products.std() / np.sqrt(len(products)))


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_langevin_dynamics_has_the_stationary_variance_of_its_step(temperature):
    eta, h, num_train = 0.8, 1.2, 50
    optimizer = SGLD(eta, num_train, temperature=temperature, seed=1)
    weights, _ = run(optimizer, h, 200)
    expected = temperature / num_train / (h * (1 - eta * h / 2))  # about twice that of small steps
    assert z_of_product(weights, weights, expected) < MAX_Z
    assert abs(weights.mean()) < MAX_Z * np.sqrt(expected / CHAINS)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_hamiltonian_dynamics_has_the_stationary_covariance_of_its_step(temperature):
    eta, h, num_train, alpha = 0.5, 0.9, 30, 0.2
    optimizer = SGHMC(eta, num_train, alpha, temperature, seed=2)
    weights, velocities = run(optimizer, h, 150)
    step = np.array([[1 - alpha, -eta * h], [1 - alpha, 1 - eta * h]])
    noise = 2 * alpha * eta * temperature / num_train * np.ones((2, 2))
    expected = scipy.linalg.solve_discrete_lyapunov(step, noise)
    for (a, b), value in (
        ((velocities, velocities), expected[0, 0]),
        ((velocities, weights), expected[0, 1]),
        ((weights, weights), expected[1, 1]),
    ):
        assert z_of_product(a, b, value) < MAX_Z


def test_noise_follows_the_rate_of_the_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.5, 0.01])
    weights, _ = run(SGLD(schedule, 10), 0.0, 10)  # 0.5 in steps 0 to 2, then 0.01
    expected = 2 * (3 * 0.5 + 7 * 0.01) / 10
    assert z_of_product(weights, weights, expected) < MAX_Z


def test_variables_and_steps_have_noise_of_their_own_and_it_follows_the_seed():
    def steps(seed):
        variables = [keras.Variable(np.zeros((2, 3), "float32")) for _ in range(2)]
        optimizer = SGLD(0.1, 10, seed=seed)
        optimizer.build(variables)
        seen = [np.zeros((2, 2, 3))]
        for _ in range(2):
            optimizer.apply([tf.zeros((2, 3))] * 2)
            seen.append(np.array([v.numpy() for v in variables]))
        return np.diff(seen, axis=0)

    first = steps(0)
    assert len(np.unique(first)) == first.size
    np.testing.assert_array_equal(steps(0), first)
    assert np.all(steps(1) != first)


def test_an_optimizer_is_saved_with_a_model(tmp_path):
    model = network()
    model.compile(SGHMC(CosineCycles(0.1, 9), 48, 0.3, LateNoise(0.5, 9, 3), 7), model.loss)
    model.fit(X, Y, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)
    config = SGLD(0.1, 10, temperature=0.5).get_config()
    assert SGLD.from_config(config).get_config() == config


def test_optimizers_refuse_what_changes_the_distribution():
    for name, value in (("weight_decay", 0.1), ("clipnorm", 1.0), ("use_ema", True)):
        with pytest.raises(ValueError, match=f"Received: {name}="):
            SGHMC(0.1, 10, **{name: value})
    with pytest.raises(ValueError, match="`friction`"):
        SGHMC(0.1, 10, friction=0.0)
    with pytest.raises(ValueError, match="`temperature`"):
        SGHMC(0.1, 10, temperature=-1.0)
    with pytest.raises(ValueError, match="`num_train`"):
        SGLD(0.1, 0)


def network():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(4, "relu")(inputs))
    outputs = keras.layers.Dense(3, "softmax")(x + inputs)
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=1.0, num_samples=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


METHOD = {"num_cycles": 2, "snapshots_per_cycle": 2, "noise_epochs": 2, "seed": 5}


def fitted(model=None, method=METHOD, **arguments):
    arguments = {"epochs": 6, "batch_size": 16, "verbose": 0, **arguments}
    return CyclicalSGHMC(**method).fit(model or network(), X, Y, **arguments)


class Look(keras.callbacks.Callback):
    """A recorder of rates and temperatures of all steps, and of weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.weights, self.rates, self.temperatures = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        optimizer = self.model.optimizer
        self.rates.append(float(optimizer.learning_rate))
        self.temperatures.append(float(optimizer.temperature(optimizer.iterations)))

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def test_snapshots_are_the_ends_of_the_last_epochs_of_each_cycle(tmp_path):
    model, look = network(), Look()
    optimizer = model.optimizer
    method = {**METHOD, "directory": tmp_path}
    posterior = fitted(model, method, callbacks=[look])
    assert model.optimizer is optimizer
    assert posterior.num_draws == 4
    assert len(posterior.variables) == len(model.weights)
    for s, epoch in enumerate((1, 2, 4, 5)):
        for a, b in zip(posterior.draw(s, None), look.weights[epoch], strict=True):
            np.testing.assert_array_equal(a, b)
    k = np.arange(9)
    rates = 0.05 * (1 + np.cos(np.pi * k / 9))
    np.testing.assert_allclose(look.rates, np.tile(np.maximum(rates, 0.001), 2), rtol=1e-5)
    np.testing.assert_array_equal(look.temperatures, np.tile(k >= 3, 2))
    with pytest.raises(ValueError, match="Expected the configuration of the run"):
        fitted(method={**method, "temperature": 0.5})
    model.fit(X, Y, epochs=1, verbose=0)  # uses its own optimizer again
    assert int(optimizer.iterations) == 2
    posterior.save(tmp_path / "posterior.npz")
    samples = Predictor(model, posterior=posterior).sample(X)
    loaded = load_posterior(tmp_path / "posterior.npz", network())
    np.testing.assert_array_equal(Predictor(loaded.model, posterior=loaded).sample(X), samples)


def test_the_posterior_of_a_linear_model():
    """Each output is an independent chain with unit noise, and its posterior is known."""
    chains, prior = 2000, 0.5
    x = RNG.normal(size=(20, 1)).astype("float32")
    y = (x * RNG.normal(size=chains) + RNG.normal(size=(20, chains))).astype("float32")
    head = keras.layers.Dense(
        chains,
        use_bias=False,
        kernel_initializer="zeros",
        kernel_regularizer=keras.regularizers.L2(1 / (2 * 20 * prior**2)),
    )
    model = keras.Sequential([keras.Input((1,)), head])
    model.compile("sgd", lambda y, p: tf.reduce_sum((y - p) ** 2, -1) / 2)
    data = tf.data.Dataset.from_tensors((x, y)).repeat(200)
    method = CyclicalSGHMC(1, snapshots_per_cycle=1, learning_rate=0.3, noise_epochs=3)
    posterior = method.fit(model, data, epochs=5, num_observations=20, verbose=0)
    deviations = posterior.draw(0, None)[0].numpy()[0].astype("float64")
    precision = (x**2).sum() + 1 / prior**2
    deviations -= (x * y).sum(0) / precision
    covariance = np.zeros((2, 2))  # covariance of velocity and weight, updated in each step
    rates, temperatures = CosineCycles(0.3, 1000), LateNoise(1.0, 1000, 600)
    for k in range(1000):
        rate = float(rates(k))
        step = np.array([[0.9, -rate * precision / 20], [0.9, 1 - rate * precision / 20]])
        noise = 2 * 0.1 * rate * float(temperatures(k)) / 20
        covariance = step @ covariance @ step.T + noise
    assert abs(covariance[1, 1] * precision - 1) < 0.01
    assert abs(deviations.mean()) < MAX_Z * np.sqrt(covariance[1, 1] / chains)
    assert z_of_product(deviations, deviations, covariance[1, 1]) < MAX_Z


def test_regression():
    inputs = keras.Input((4,))
    outputs = tfp_bayes.layers.NormalParameters()(keras.layers.Dense(2)(inputs))
    model = tfp_bayes.BayesianModel(
        inputs, outputs, likelihood="normal", prior_scale=1.0, num_samples=1
    )
    model.compile("sgd", tfp_bayes.losses.NormalNLL())
    method = CyclicalSGHMC(2, snapshots_per_cycle=2, learning_rate=0.002)
    posterior = method.fit(model, X, X.sum(1, keepdims=True), epochs=8, verbose=0)
    p = Predictor(model, "normal", posterior).predict_uncertainty(X)
    assert p.epistemic_variance.min() > 0


def test_the_number_of_observations():
    from tfp_bayes.inference.cyclical import _count_observations

    def count(loss, *shape):
        model = keras.Sequential([keras.Input(shape), keras.layers.Activation("linear")])
        model.compile("sgd", loss)
        return _count_observations(model, np.zeros((7, 3)))

    assert count("sparse_categorical_crossentropy", 3) == 7
    assert count(keras.losses.CategoricalCrossentropy(), 3) == 7
    assert count("sparse_categorical_crossentropy", 4, 5, 3) == 7 * 20
    assert count("binary_crossentropy", 3) == 7 * 3
    assert count(tfp_bayes.losses.NormalNLL(), 6) == 7
    ignoring = keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    for arguments in (("mse", 3), ("sparse_categorical_crossentropy", None, 3), (ignoring, 3)):
        with pytest.raises(ValueError, match="Expected `num_observations`"):
            count(*arguments)
    tokens = keras.Input((4,), dtype="int32")
    tags = keras.layers.Embedding(5, 3, mask_zero=True)(tokens)
    for outputs in (tags, [keras.ops.copy(tags)] * 2):
        model = keras.Model(tokens, outputs)
        model.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.raises(ValueError, match="Expected `num_observations`"):
            _count_observations(model, np.zeros((7, 4)))
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    with pytest.raises(ValueError, match=r"Expected `num_observations`.*a dataset"):
        CyclicalSGHMC(**METHOD).fit(network(), data, epochs=6)


def test_bad_arguments():
    for epochs in (7, 2):
        with pytest.raises(ValueError, match="2 cycles of equal length"):
            fitted(epochs=epochs)
    with pytest.raises(ValueError, match="at least 2 for `noise_epochs`"):
        CyclicalSGHMC(2, snapshots_per_cycle=2, noise_epochs=1)
    with pytest.raises(ValueError, match="`temperature`"):
        CyclicalSGHMC(temperature=0)
    config = CyclicalSGHMC(**METHOD).get_config()
    assert CyclicalSGHMC.from_config(config).get_config() == config
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="Expected a compiled `model`"):
        fitted(plain)
    plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(reduction="sum"))
    with pytest.raises(ValueError, match="Expected reduction='sum_over_batch_size'"):
        fitted(plain)
    for loss in (
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        tfp_bayes.losses.NormalNLL(beta=0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),  # of a softmax
    ):
        plain.compile("sgd", loss)
        with pytest.raises(ValueError, match=r"log likelihood of .* with \w+=(0\.|True)"):
            fitted(plain)
    plain.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="has no prior"):
        fitted(plain)
