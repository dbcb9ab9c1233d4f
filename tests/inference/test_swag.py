"""Tests of SWAG: covariance as in the paper, precision of variances, and resumed training."""

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

import tfp_bayes
from tfp_bayes import Predictor
from tfp_bayes.inference import (
    SWAG,
    MultiSWAG,
    StoredPosterior,
    SWAGPosterior,
    load_posterior,
    materialize,
)
from tfp_bayes.inference.snapshots import Moments

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype("float32"), RNG.integers(0, 3, 60)
MAX_Z = 5.5


def network(normalized=False, seed=1, optimizer=None):
    """A functional network with a skip connection and, if asked, batch normalization."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, "relu")(inputs)
    if normalized:
        x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x + inputs))
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy"
    )
    return model


def fitted(method, model=None, **arguments):
    arguments = {"epochs": 5, "batch_size": 16, "verbose": 0, **arguments}
    return method.fit(model or network(), X, Y, **arguments)


def draws_of(posterior, number):
    """Return draws (S, P) with all variables concatenated."""

    @tf.function
    def all_draws(seeds):
        def one(seed):
            return tf.concat([tf.reshape(d, [-1]) for d in posterior.draw(0, seed)], 0)

        return tf.map_fn(one, seeds, fn_output_signature=tf.float32)

    seeds = np.random.default_rng(1).integers(0, 2**31, (number, 2)).astype("int32")
    return all_draws(seeds).numpy().astype("float64")


def test_covariance_of_draws_is_the_papers():
    """It is half the diagonal plus half the full covariance of the snapshots, across layers."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    snapshots = RNG.normal(size=(6, 5)) @ RNG.normal(size=(5, 5))
    moments = Moments(model.trainable_variables, rank=6)
    for each in snapshots:
        moments.add([each[:2].reshape(2, 1), each[2:3], each[3:4].reshape(1, 1), each[4:]])
    posterior = SWAG(6, num_snapshots=6)._posterior(model, moments, NoStatistics(), 0)
    draws = draws_of(posterior, 20_000)
    covariance = np.cov(snapshots.T)
    expected = (np.diag(np.diag(covariance)) + covariance) / 2
    centered = draws - snapshots.mean(0)
    z = centered.mean(0) / np.sqrt(np.diag(expected) / len(draws))
    assert np.abs(z).max() < MAX_Z
    products = centered[:, :, None] * centered[:, None]
    z = (products.mean(0) - expected) / (products.std(0) / np.sqrt(len(draws)))
    assert np.abs(z).max() < MAX_Z
    assert np.abs(expected[0, 3]) > 50 * products[:, 0, 3].std() / np.sqrt(len(draws)) / MAX_Z


def test_temperature_multiplies_the_covariance(tmp_path):
    model = network()
    bayes, cold = (
        fitted(SWAG(3, num_snapshots=3, temperature=t, directory=tmp_path), model)
        for t in (1.0, 0.25)  # the second reuses the training of the first
    )
    seed = tf.constant([1, 2])
    for a, b, center in zip(bayes.draw(0, seed), cold.draw(0, seed), bayes.center()):
        assert np.abs(a - center).max() > 1e-3
        np.testing.assert_allclose(b - center, (a - center) / 2, atol=1e-6)
    cold.save(tmp_path / "cold.npz")
    assert load_posterior(tmp_path / "cold.npz", model).temperature == 0.25
    with pytest.raises(ValueError, match="positive, finite number for `temperature`"):
        SWAG(temperature=0.0)
    with pytest.raises(ValueError, match="temperature=1 with rank=0"):
        MultiSWAG(rank=0, temperature=0.5)
    assert MultiSWAG(temperature=0.5)._member.temperature == 0.5


class NoStatistics:
    variables: list = []


def test_variances_far_below_the_square_of_the_mean_survive():
    model = network()
    rng = np.random.default_rng(3)
    moments = Moments(model.trainable_variables[:1], rank=2)
    snapshots = (0.3 + 1e-5 * rng.normal(size=(40, 4, 4))).astype("float32")
    for each in snapshots:
        moments.add([each])
    expected = snapshots.astype("float64").var(0, ddof=1)
    np.testing.assert_allclose(moments.squares[0] / 39, expected, rtol=1e-6)
    np.testing.assert_allclose(moments.mean[0], snapshots.mean(0, dtype="float64"), rtol=1e-12)
    deviations = snapshots[-2:].astype("float64") - snapshots.mean(0, dtype="float64")
    np.testing.assert_allclose(moments.deviations()[0], deviations, atol=1e-12)


@keras.saving.register_keras_serializable("test_swag")
class Quadratic(keras.regularizers.Regularizer):
    """The quadratic form theta^T H theta / 2 for many independent pairs of weights."""

    def __call__(self, x):
        pairs = tf.reshape(x, [-1, 2])
        return tf.reduce_sum(pairs * tf.linalg.matmul(pairs, H.astype("float32"))) / 2

    def get_config(self):
        return {}


H = np.array([[1.0, 0.4], [0.4, 0.6]])


def test_gradient_descent_on_a_quadratic_has_the_stationary_covariance():
    """Check Sigma = (I - eta H) Sigma (I - eta H) + eta^2 C for additive noise."""
    eta, chains, snapshots, thin = 0.9, 400, 30, 12
    noise = np.linalg.cholesky(np.array([[1.0, -0.3], [-0.3, 0.5]]))
    rng = np.random.default_rng(5)
    rows = rng.normal(size=((snapshots + 2) * thin, chains, 2)) @ noise.T
    data = (rows.reshape(len(rows), -1).astype("float32"), np.zeros((len(rows), 1), "float32"))
    data = tf.data.Dataset.from_tensor_slices(data).batch(1)
    keras.utils.set_random_seed(0)
    head = keras.layers.Dense(
        1, use_bias=False, kernel_initializer="zeros", kernel_regularizer=Quadratic()
    )
    model = keras.Sequential([keras.Input((2 * chains,)), head])
    model.compile(keras.optimizers.SGD(eta), lambda y, p: p)  # whose gradient is the row
    method = SWAG(snapshots, num_snapshots=snapshots)
    posterior = method.fit(
        model, data, epochs=snapshots + 2, steps_per_epoch=thin, verbose=0, batch_size=1
    )
    step = np.eye(2) - eta * H
    sigma = scipy.linalg.solve_discrete_lyapunov(step, eta**2 * noise @ noise.T)
    arrays, _ = posterior.get_state()
    deviations = arrays["deviations_0"].reshape(snapshots, chains, 2).astype("float64")
    variances = arrays["scale_0"].reshape(chains, 2).astype("float64") ** 2
    products = np.einsum("kci,kcj->cij", deviations, deviations) / (snapshots - 1)
    z = (products.mean(0) - sigma) / (products.std(0) / np.sqrt(chains))
    assert np.abs(z).max() < MAX_Z
    z = (variances.mean(0) - np.diag(sigma)) / (variances.std(0) / np.sqrt(chains))
    assert np.abs(z).max() < MAX_Z


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    settings = {"num_snapshots": 3, "learning_rate": 0.05}
    expected = fitted(SWAG(3, **settings)).get_state()[0]
    method = SWAG(3, directory=tmp_path, **settings)
    for stop in (1, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            fitted(method, callbacks=[Stop(stop)])
    for _ in range(2):  # the second has nothing left to do
        found = fitted(method).get_state()[0]
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(ValueError, match="Expected the configuration of the run"):
        fitted(SWAG(2, directory=tmp_path, **settings))
    with pytest.raises(ValueError, match="Expected the configuration of the run"):
        fitted(method, epochs=6)


def test_the_rate_of_collecting_is_set_and_put_back():
    model, seen = network(), []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    fitted(SWAG(2, num_snapshots=2, learning_rate=0.03), model, callbacks=[Look()])
    np.testing.assert_allclose(seen, [0.1, 0.1, 0.1, 0.03, 0.03], rtol=1e-6)
    assert float(model.optimizer.learning_rate) == np.float32(0.1)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    method = SWAG(2, num_snapshots=2, learning_rate=0.03)
    with pytest.raises(ValueError, match="with a schedule"):
        fitted(method, network(optimizer=keras.optimizers.SGD(schedule)))


def test_what_makes_snapshots_alike_or_too_different_is_warned_of():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    with pytest.warns(UserWarning, match="The learning rate fell to"):
        fitted(SWAG(2, num_snapshots=2), network(optimizer=keras.optimizers.SGD(schedule)))
    moments = Moments([], rank=2)
    moments.count, moments._losses = 2, [2.0, 0.5]
    with pytest.warns(UserWarning, match=r"The loss fell from 2 to 0.5"):
        moments.warn_of_training()


def test_averaging_alone_is_one_draw():
    posterior = fitted(SWAG(0, num_snapshots=3))
    full = fitted(SWAG(2, num_snapshots=3))
    assert isinstance(posterior, StoredPosterior)
    assert posterior.num_draws == 1
    for a, b in zip(posterior.draw(0, None), full.center(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_saved_loaded_and_served(tmp_path):
    model = network()
    posterior = fitted(SWAG(3, num_snapshots=3), model)
    assert isinstance(posterior, SWAGPosterior)
    predictor = Predictor(model, posterior=posterior)
    p = predictor.predict_uncertainty(X, 20, seed=3, return_samples=True)
    assert p.epistemic_variance.min() > 0
    assert len(np.unique(p.samples[:, 0, 0])) == 20
    posterior.save(tmp_path / "posterior.npz")
    loaded = load_posterior(tmp_path / "posterior.npz", model)
    again = Predictor(model, posterior=loaded).sample(X, 20, seed=3)
    np.testing.assert_array_equal(again, p.samples)
    tfp_bayes.export_saved_model(predictor, tmp_path / "served")
    loaded = tf.saved_model.load(tmp_path / "served")
    served = loaded.predict_uncertainty(X, 20, [3, 0])
    np.testing.assert_array_equal(served["mean"], p.mean)
    np.testing.assert_array_equal(served["mutual_information"], p.mutual_information)


def test_draws_of_a_normalized_network_have_statistics_of_their_own(tmp_path):
    model = network(normalized=True)
    posterior = fitted(SWAG(3, num_snapshots=3, learning_rate=0.5, num_draws=4), model)
    assert posterior.num_draws == 4
    assert fitted(SWAG(2, num_snapshots=2), network(normalized=True)).num_draws == 30
    samples = Predictor(model, posterior=posterior).sample(X)
    weights = [v.numpy() for v in model.trainable_variables]
    for s in range(4):
        # Recompute the network with the drawn weights in NumPy.
        values = {id(v): d.numpy() for v, d in zip(posterior.variables, posterior.draw(s, None))}
        kernel, bias = (values[id(v)] for v in model.layers[1].weights)
        gamma, beta, mean, variance = (values[id(v)] for v in model.layers[2].weights)
        hidden = np.maximum(X @ kernel + bias, 0)
        np.testing.assert_allclose(mean, hidden.mean(0), atol=1e-5)
        hidden = gamma * (hidden - mean) / np.sqrt(variance + 1e-3) + beta
        kernel, bias = (values[id(v)] for v in model.layers[-1].weights)
        logits = (hidden + X) @ kernel + bias
        np.testing.assert_allclose(samples[s], scipy.special.softmax(logits, 1), atol=1e-5)
    for v, before in zip(model.trainable_variables, weights):
        np.testing.assert_array_equal(v, before)
    posterior.save(tmp_path / "posterior.npz")
    loaded = load_posterior(tmp_path / "posterior.npz", model)
    np.testing.assert_array_equal(Predictor(model, posterior=loaded).sample(X), samples)


def test_several_trainings():
    method = MultiSWAG(2, draws_per_member=3, rank=2, num_snapshots=2, learning_rate=0.01, seed=4)
    model = network()
    posterior = fitted(method, model, epochs=3)
    assert posterior.num_draws == 6
    kernels = posterior.draw(0, None)[0], posterior.draw(1, None)[0], posterior.draw(3, None)[0]
    within = np.abs(kernels[0] - kernels[1]).max()
    assert np.abs(kernels[0] - kernels[2]).max() > 5 * within > 0
    # The weights and optimizer state from the first fit do not change the result.
    for a, b in zip(fitted(method, model, epochs=3).draw(4, None), posterior.draw(4, None)):
        np.testing.assert_array_equal(a, b)
    assert MultiSWAG.from_config(method.get_config()).get_config() == method.get_config()


def test_members_are_resumed(tmp_path):
    settings = {"draws_per_member": 2, "rank": 2, "num_snapshots": 2}
    expected = fitted(MultiSWAG(2, **settings), epochs=3).get_state()[0]
    method = MultiSWAG(2, directory=tmp_path, **settings)

    class StopSecond(keras.callbacks.Callback):
        trainings = 0

        def on_train_begin(self, logs=None):
            self.trainings += 1
            if self.trainings == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(method, epochs=3, callbacks=[StopSecond()])
    assert (tmp_path / "member_0.npz").exists()
    found = fitted(method, epochs=3).get_state()[0]
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_regression():
    inputs = keras.Input((4,))
    outputs = tfp_bayes.layers.NormalParameters()(keras.layers.Dense(2)(inputs))
    model = tfp_bayes.BayesianModel(
        inputs, outputs, likelihood="normal", prior_scale=1.0, num_samples=1
    )
    model.compile(keras.optimizers.SGD(0.01), tfp_bayes.losses.NormalNLL())
    y = X.sum(1, keepdims=True)
    posterior = SWAG(4, num_snapshots=4).fit(model, X, y, epochs=6, verbose=0)
    p = Predictor(model, "normal", posterior).predict_uncertainty(X, 20, seed=0)
    assert p.epistemic_variance.min() > 0
    assert p.aleatoric_variance.min() > 0


def test_a_mixed_precision_network_keeps_small_differences():
    model = keras.Sequential(
        [keras.Input((4,), dtype="float32"), keras.layers.Dense(3, "softmax", dtype="bfloat16")]
    )
    kernel = model.layers[0].kernel
    deviations = np.full((2, 4, 3), 1e-4)
    posterior = SWAGPosterior(model, [np.ones((4, 3))], [np.ones((4, 3))], [deviations], [kernel])
    np.testing.assert_allclose(posterior.get_state()[0]["deviations_0"], deviations)
    assert posterior.draw(0, tf.constant([0, 0]))[0].dtype == "bfloat16"


def test_draws_satisfy_constraints():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_constraint="NonNeg")])
    parts = [np.zeros(v.shape) for v in model.weights], [np.ones(v.shape) for v in model.weights]
    posterior = SWAGPosterior(model, *parts, [np.ones((2, *v.shape)) for v in model.weights])
    kernel, bias = posterior.draw(0, tf.constant([0, 0]))
    assert kernel.numpy().min() == 0 > bias.numpy().min()


def test_bad_arguments():
    for rank, num_snapshots in ((1, 20), (5, 4), (-1, 3)):
        with pytest.raises(ValueError, match="`rank`"):
            SWAG(rank, num_snapshots=num_snapshots)
    with pytest.raises(ValueError, match="at least 20 for `epochs`"):
        fitted(SWAG(), epochs=10)
    with pytest.raises(ValueError, match="a positive, finite number for `learning_rate`"):
        SWAG(learning_rate=0.0)
    with pytest.raises(ValueError, match="Expected a compiled `model`"):
        SWAG(2, num_snapshots=2).fit(keras.Sequential([keras.Input((4,))]), X, Y, epochs=2)
    model = network()
    for stop_at in (0, 3):
        early = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, _, stop_at=stop_at: setattr(
                model, "stop_training", epoch == stop_at
            )
        )
        with pytest.raises(ValueError, match=f"Received: {stop_at + 1}, because training stopped"):
            fitted(SWAG(2, num_snapshots=5), model, callbacks=[early])
    broken = np.where(np.arange(60)[:, None] == 7, 3e38, X)  # its square overflows
    with pytest.raises(ValueError, match=r"NaN or infinity in .*kernel"):
        SWAG(2, num_snapshots=2).fit(network(), broken, Y, epochs=2, verbose=0)
    model = network()
    with pytest.raises(ValueError, match="Expected arrays of shapes"):
        SWAGPosterior(model, [np.zeros(3)], [np.zeros(3)], [np.zeros((2, 3))])


def test_a_posterior_made_by_hand_is_refused_without_statistics():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(2, "softmax")]
    )
    draws = [RNG.normal(size=(4, *v.shape)) for v in model.trainable_variables]
    mean = [each.mean(0) for each in draws]
    by_hand = SWAGPosterior(
        model, mean, [each.std(0) for each in draws], [d - m for d, m in zip(draws, mean)]
    )
    for posterior in (by_hand, tfp_bayes.StoredPosterior(model, draws, model.trainable_variables)):
        with pytest.raises(ValueError, match="Expected moving statistics in each draw"):
            Predictor(model, posterior=posterior)
    x = RNG.normal(size=(20, 3)).astype("float32")
    kept = materialize(by_hand, 5, refresh_batchnorm=x)
    assert Predictor(model, posterior=kept).predict(x).shape == (20, 2)
