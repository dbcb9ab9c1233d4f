"""Tests of the Laplace approximation for whole networks: posterior, prior, file, predictions."""

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import tensorflow as tf

import tfp_bayes
from tfp_bayes import Laplace, LastLayerLaplace, Predictor, load_posterior
from tfp_bayes.inference import Method, materialize
from tfp_bayes.inference.target_noise import resolve_observations
from tfp_bayes.layers import MCDropout, NormalParameters

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)


def network(dtype=None, batch_normalization=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    x = L.Dense(4, "tanh", dtype=dtype)(inputs)
    if batch_normalization:
        x = L.BatchNormalization(dtype=dtype)(x)
    model = keras.Model(inputs, L.Dense(3, "softmax", dtype=dtype)(x))
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)  # before the trace, which is then the only one
    model.fit(X, Y, epochs=20, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return network("float64")


def covariance_of(posterior):
    """Compute the posterior covariance (P, P) of all drawn weights as a full matrix."""
    blocks = []
    for block in posterior._blocks:
        for g, values in enumerate(block.eigenvalues):
            parts = [np.eye(n) if v is None else v[g] for n, v in zip(values.shape, block[1:])]
            vectors = np.kron(*parts)
            variances = 1 / (values.ravel() + posterior.prior_scale**-2)
            blocks.append((vectors * variances) @ vectors.T)
    return scipy.linalg.block_diag(*blocks)


def test_linear_regression_is_exact():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 3)).astype("float32")
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=30)
    dense = L.Dense(1, dtype="float64")
    normal = NormalParameters(heteroscedastic=False, dtype="float64")
    model = keras.Sequential([keras.Input((3,)), dense, normal])
    scale = float(model(x)[0, 1])
    phi = np.c_[x.astype("float64"), np.ones(30)]
    exact = np.linalg.inv(phi.T @ phi / scale**2 + np.eye(4) / 4)
    mean = exact @ phi.T @ y / scale**2
    dense.set_weights([mean[:3, None], mean[3:]])  # the mode of the posterior
    posterior = Laplace(prior_scale=2.0, likelihood="normal").fit(model, x, y)
    np.testing.assert_allclose(covariance_of(posterior), exact, atol=1e-10)
    np.testing.assert_allclose(np.concatenate([np.ravel(w) for w in posterior.center()]), mean)
    evidence = -0.5 * np.linalg.slogdet(2 * np.pi * (scale**2 * np.eye(30) + 4 * phi @ phi.T))[1]
    evidence -= 0.5 * y @ np.linalg.solve(scale**2 * np.eye(30) + 4 * phi @ phi.T, y)
    assert posterior.log_marginal_likelihood() == pytest.approx(evidence, abs=1e-8)
    p = Predictor(model, "normal", posterior).predict_uncertainty(x[:5], 4000, seed=0)
    variance = np.einsum("ni,ij,nj->n", phi[:5], exact, phi[:5])
    np.testing.assert_allclose(p.epistemic_variance[:, 0], variance, rtol=5.5 * (2 / 4000) ** 0.5)
    np.testing.assert_allclose(p.aleatoric_variance, scale**2, rtol=1e-6)
    assert posterior.left_at_map == [normal.untransformed_scale.path]


def regression(dtype="float64"):
    """Return a linear model, data, and the features with a column of ones for the bias."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 3)).astype("float32")
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=30)
    phi = np.c_[x.astype("float64"), np.ones(30)]
    model = keras.Sequential([keras.Input((3,)), L.Dense(1, dtype=dtype)])
    return model, x, y, phi


def test_squared_error_of_a_linear_model_is_exact_at_a_given_noise(tmp_path):
    model, x, y, phi = regression()
    scale, prior_scale = 0.4, 2.0
    exact = np.linalg.inv(phi.T @ phi / scale**2 + np.eye(4) / prior_scale**2)
    mean = exact @ phi.T @ y / scale**2
    model.layers[0].set_weights([mean[:3, None], mean[3:]])
    method = Laplace(prior_scale=prior_scale, likelihood="normal", noise_scale=scale)
    posterior = method.fit(model, x, y)
    np.testing.assert_allclose(covariance_of(posterior), exact, atol=1e-10)
    gram = scale**2 * np.eye(30) + prior_scale**2 * phi @ phi.T
    evidence = scipy.stats.multivariate_normal(np.zeros(30), gram).logpdf(y)
    assert posterior.log_marginal_likelihood() == pytest.approx(evidence, abs=1e-8)
    posterior.save(tmp_path / "posterior.npz")
    loaded = load_posterior(tmp_path / "posterior.npz", model)
    variance = np.einsum("ni,ij,nj->n", phi[:5], exact, phi[:5])
    kept = materialize(posterior, 1000, seed=0)
    for each, num_samples in ((posterior, 4000), (loaded, 4000), (kept, None)):
        p = Predictor(model, "normal", each).predict_uncertainty(x[:5], num_samples, seed=0)
        size = num_samples or 1000
        z = (p.mean[:, 0] - phi[:5] @ mean) / np.sqrt(variance / size)
        assert np.abs(z).max() < 5.5
        error = 5.5 * (2 / size) ** 0.5
        np.testing.assert_allclose(p.epistemic_variance[:, 0], variance, rtol=error)
        np.testing.assert_allclose(p.aleatoric_variance, scale**2, rtol=1e-6)
        assert p.mean.shape == (5, 1)


def test_noise_is_that_of_residuals_or_of_largest_evidence():
    model, x, y, phi = regression()
    weights = np.linalg.solve(phi.T @ phi + 0.1 * np.eye(4), phi.T @ y)
    model.layers[0].set_weights([weights[:3, None], weights[3:]])
    squares = np.square(y - phi @ weights).sum()
    posterior = Laplace(prior_scale=2.0, likelihood="normal").fit(model, x, y[:, None])
    np.testing.assert_allclose(posterior.noise_scales[0], (squares / 30) ** 0.5, rtol=1e-6)

    def log_evidence(noise, prior):
        """Compute the Laplace approximation of the log evidence with dense matrices."""
        log_det = np.linalg.slogdet(phi.T @ phi / noise**2 + np.eye(4) / prior**2)[1]
        fit = scipy.stats.norm.logpdf(y, phi @ weights, noise).sum()
        return fit - np.square(weights).sum() / prior**2 / 2 - 4 * np.log(prior) - log_det / 2

    for given in (None, 0.7):
        method = Laplace(prior_scale=given, likelihood="normal", noise_scale="evidence")
        posterior = method.fit(model, x, y)
        noise, prior = float(posterior.noise_scales[0].numpy()[0]), posterior.prior_scale
        best = log_evidence(noise, prior)
        assert posterior.log_marginal_likelihood() == pytest.approx(best, abs=1e-7)
        assert best > max(log_evidence(noise * f, prior) for f in (0.99, 1.01))
        priors = (0.99, 1.01) if given is None else ()
        assert all(best > log_evidence(noise, prior * f) for f in priors)
        assert noise > (squares / 30) ** 0.5


def test_several_targets_have_a_noise_each_at_every_position():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 4, 2)).astype("float32")
    model = keras.Sequential([keras.Input((4, 2)), L.Conv1D(2, 2, padding="same", dtype="float64")])
    y = model.predict(x, verbose=0) + rng.normal(size=(20, 4, 2)) * [0.1, 10.0]
    posterior = Laplace("diagonal", 1.0, likelihood="normal").fit(model, x, y)
    scale = np.sqrt(np.square(y - model.predict(x, verbose=0)).mean(axis=(0, 1)))
    np.testing.assert_allclose(posterior.noise_scales[0], scale, rtol=1e-6)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 0))).astype("float64")
    patches = np.concatenate([padded[:, :-1], padded[:, 1:], np.ones((20, 4, 1))], axis=-1)
    expected = np.square(patches).sum(axis=(0, 1))[:, None] / scale**2
    np.testing.assert_allclose(posterior._blocks[0].eigenvalues[0], expected, rtol=1e-9)
    p = Predictor(model, "normal", posterior).predict_uncertainty(x, 5, seed=2)
    np.testing.assert_allclose(p.aleatoric_variance, scale**2 * np.ones(y.shape), rtol=1e-6)
    kept = materialize(posterior, 5, seed=2)
    other = materialize(posterior, 5, seed=3)
    other.noise_scales[0].assign([1.0, 1.0])
    assert other.assign(kept)
    for each in (kept, other):
        q = Predictor(model, "normal", each).predict_uncertainty(x)
        np.testing.assert_allclose(q.mean, p.mean, rtol=1e-12)
        np.testing.assert_allclose(q.variance, p.variance, rtol=1e-6)


def test_padding_and_the_size_of_batches_do_not_matter():
    """Padded positions change neither the noise nor the prior scale, and neither do batches."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int32")
    x = L.Embedding(5, 3, mask_zero=True)(inputs)
    words, rng = np.random.default_rng(3).integers(0, 5, (60, 4)), np.random.default_rng(4)
    model, y = keras.Model(inputs, L.Dense(2)(x)), rng.normal(size=(60, 4, 2))
    data = tf.data.Dataset.from_tensor_slices((words, y)).batch(50)
    (found,) = resolve_observations(model, data, None, "normal", None)
    residuals = (y - model.predict(words, verbose=0))[words > 0]
    np.testing.assert_allclose(found.scale, np.sqrt((residuals**2).mean(0)), rtol=1e-5)

    tagger = keras.Model(inputs, L.Dense(3, "softmax")(x))
    tagger.layers[-1].kernel.assign(3 * rng.normal(size=(3, 3)))
    p = tagger.predict(words, verbose=0) ** 0.3
    tags = (rng.random((60, 4, 1)) > np.cumsum(p / p.sum(-1, keepdims=True), -1)).sum(-1).clip(0, 2)
    posterior = Laplace("diagonal", 1.0).fit(tagger, words, tags)
    scales = []
    for padding, size in ((0, 60), (2, 50)):
        labels = np.where(words > 0, tags, padding)
        data = tf.data.Dataset.from_tensor_slices((words, labels)).batch(size)
        Laplace("diagonal")._maximize_validation(posterior, "categorical", data)
        scales.append(posterior.prior_scale)
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_sigmoids_have_the_curvature_of_explicit_jacobians(num_outputs):
    keras.utils.set_random_seed(0)
    hidden = L.Dense(4, "tanh", dtype="float64")
    last = L.Dense(num_outputs, "sigmoid", dtype="float64")
    model = keras.Sequential([keras.Input((2,)), hidden, last])
    y = np.stack([k == Y for k in range(num_outputs)], axis=1)
    targets = y[:, 0] if num_outputs == 1 else y
    posterior = Laplace("diagonal", 1.0, likelihood="bernoulli").fit(model, X, targets)
    with tf.GradientTape() as tape:
        logits = hidden(X) @ last.kernel.value + last.bias.value
    parts = tape.jacobian(logits, [v.value for v in posterior.variables])
    j = np.concatenate([np.reshape(each, (40, num_outputs, -1)) for each in parts], axis=2)
    p = model(X).numpy()
    expected = 1 / (np.einsum("nk,nkp->p", p * (1 - p), j**2) + 1.0)
    np.testing.assert_allclose(np.diag(covariance_of(posterior)), expected, rtol=1e-10)
    expected = np.log(np.where(y, p, 1 - p)).sum()
    assert posterior.log_likelihood == pytest.approx(expected, abs=1e-8)
    mean = Predictor(model, "bernoulli", posterior).predict(X, 20)
    assert mean.shape == (40, num_outputs)


@pytest.mark.parametrize("covariance", ["kronecker", "diagonal"])
def test_linearized_samples_have_the_covariance_of_explicit_jacobians(covariance, model):
    posterior = Laplace(covariance, prior_scale=0.7).fit(model, X, Y)
    x, num_samples = X[:3], 4000
    hidden, last = model.layers[1], model.layers[-1]
    with tf.GradientTape(persistent=True) as tape:
        logits = hidden(x) @ last.kernel.value + last.bias.value
    # Without vectorization, which takes longer to trace than nine gradients to compute.
    values = [v.value for v in posterior.variables]
    parts = tape.jacobian(logits, values, experimental_use_pfor=False)
    j = np.concatenate([np.reshape(each, (9, -1)) for each in parts], axis=1)
    difference = np.kron(np.eye(3), [[1, 0, -1], [0, 1, -1]])  # a softmax ignores common shifts
    expected = difference @ j @ covariance_of(posterior) @ j.T @ difference.T
    samples = np.log(Predictor(model, posterior=posterior).sample(x, num_samples, seed=1))
    samples = samples.reshape(num_samples, 9) @ difference.T
    center = logits.numpy().reshape(9) @ difference.T
    variance = np.diag(expected)
    z = (samples.mean(0) - center) / np.sqrt(variance / num_samples)
    assert np.abs(z).max() < 5.5
    error = np.sqrt((np.outer(variance, variance) + expected**2) / num_samples)
    assert np.abs((np.cov(samples.T) - expected) / error).max() < 5.5
    sampled = Predictor(model, posterior=posterior, linearize=False).sample(x, 5, seed=1)
    linear = Predictor(model, posterior=posterior).sample(x, 5, seed=1)
    kept = Predictor(model, posterior=materialize(posterior, 5, seed=1)).sample(x)
    np.testing.assert_allclose(kept, linear, rtol=1e-12)
    assert np.abs(sampled - linear).max(axis=(1, 2)).min() > 1e-3


def test_temperature_multiplies_the_covariance(model):
    bayes = Laplace(prior_scale=0.7).fit(model, X, Y)
    cold = Laplace(prior_scale=0.7, temperature=0.25).fit(model, X, Y)
    last = [LastLayerLaplace(model, X, Y, prior_scale=0.7, temperature=t) for t in (1.0, 0.25)]
    for one, other in ((bayes, cold), last):
        seed = tf.constant([1, 2])
        draws = zip(one.draw(0, seed), other.draw(0, seed), one.center(), other.center())
        for a, b, center, same in draws:
            np.testing.assert_array_equal(center, same)
            np.testing.assert_allclose(b - center, (a - center) / 2, rtol=1e-12, atol=1e-15)
        assert one.log_marginal_likelihood() == other.log_marginal_likelihood()
        assert not one.assign(other)  # traced graphs contain the temperature
    np.testing.assert_array_equal(last[1].variances, last[0].variances / 4)
    entropies = [-(p * np.log(p)).sum() for p in (each.predict(X) for each in last)]
    assert entropies[1] < entropies[0]
    for make in (Laplace, lambda **more: LastLayerLaplace(model, X, Y, **more)):
        with pytest.raises(ValueError, match="positive, finite number for `temperature`"):
            make(temperature=-1.0)


def test_narrow_priors_and_many_examples_give_the_network(model):
    posterior = Laplace(prior_scale=1e-5).fit(model, X, Y)
    predictor = Predictor(model, posterior=posterior)
    np.testing.assert_allclose(predictor.predict(X, 20), model(X), atol=1e-3)
    assert posterior.prior_share > 0.999
    spreads = []
    for repeats in (1, 100):
        many = Laplace(prior_scale=1.0).fit(model, np.repeat(X, repeats, 0), np.repeat(Y, repeats))
        assert posterior.assign(many)  # updates the predictor too
        spreads.append(predictor.predict_uncertainty(X, 20, seed=0).epistemic_variance.mean())
    assert 0 < spreads[1] < 0.1 * spreads[0]


def test_evidence_is_that_of_the_dense_normal_and_largest_at_its_scale(model):
    posterior = Laplace().fit(model, X, Y)
    w = np.concatenate([np.ravel(each) for each in posterior.center()])
    log_p = np.log(model.predict(X, verbose=0)[np.arange(40), Y]).sum()
    s = posterior.prior_scale
    log_prior = -0.5 * (w @ w / s**2 + w.size * np.log(2 * np.pi * s**2))
    log_det = np.linalg.slogdet(2 * np.pi * covariance_of(posterior))[1]
    evidence = posterior.log_marginal_likelihood()
    assert evidence == pytest.approx(log_p + log_prior + 0.5 * log_det, abs=1e-6)
    for other in (0.9, 1.1):
        assert posterior.log_marginal_likelihood(other * s) < evidence
    variance = np.trace(covariance_of(posterior)) / w.size
    assert posterior.prior_share == pytest.approx(variance / s**2, rel=1e-9)


def test_evidence_chooses_the_architecture_that_the_data_need():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    line = (x.sum(1) + 0.5 * rng.normal(size=200) > 0).astype(int)
    ring = ((x**2).sum(1) + 0.5 * rng.normal(size=200) > 1.5).astype(int)

    def evidence(hidden, y):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2,)), *hidden, L.Dense(2, "softmax")])
        model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
        posterior = Laplace().fit(model, x, y, epochs=60, batch_size=200, verbose=0)
        return posterior.log_marginal_likelihood()

    assert evidence([], line) > evidence([L.Dense(16, "tanh")], line) + 2
    assert evidence([], ring) < evidence([L.Dense(16, "tanh")], ring) - 2


def test_validation_data_choose_the_scale_that_predicts_them(model):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 2)).astype("float32")
    y = np.where(rng.random(60) < 0.3, rng.integers(3, size=60), (x[:, 0] > 0) + (x[:, 1] > 0.5))
    posterior = Laplace("diagonal").fit(model, X, Y, validation_data=(x, y[:, None]))

    predictor = Predictor(model, posterior=posterior)

    def nll(scale):
        posterior.set_prior_scale(scale)
        return -predictor.predict_uncertainty(x, 200, seed=3).log_prob(y).mean()

    best = nll(posterior.prior_scale)
    assert best < nll(1e-3) - 0.05  # practically the network without uncertainty
    assert best < min(map(nll, (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0))) + 0.005


def test_a_bayesian_model_brings_prior_and_likelihood():
    inputs = keras.Input((2,))
    outputs = L.Dense(1, "sigmoid")(inputs)
    model = tfp_bayes.BayesianModel(
        inputs, outputs, likelihood="bernoulli", prior_scale=0.5, num_samples=1
    )
    y = (X[:, 0] > 0).astype(int)
    posterior = Laplace().fit(model, X, y)
    assert posterior.prior_scale == 0.5
    assert posterior.log_likelihood < 0
    with pytest.raises(ValueError, match="model's likelihood 'bernoulli'"):
        Laplace(likelihood="categorical").fit(model, X, y)


def test_frozen_layers_leave_the_exact_last_layer_of_a_regression():
    hidden, last = L.Dense(3, "tanh", dtype="float64"), L.Dense(2, dtype="float64")
    model = keras.Sequential([keras.Input((2,)), hidden, last])
    y = np.stack([np.sin(X[:, 0]), X[:, 1]], 1) + 0.1 * RNG.normal(size=(40, 2))
    with pytest.raises(ValueError, match="trainable = False in the other layers, and use"):
        Laplace(variables="last_layer", likelihood="normal")
    hidden.trainable = False
    posterior = Laplace(prior_scale=2.0, likelihood="normal", noise_scale=[0.1, 0.5]).fit(
        model, X, y
    )
    assert (posterior.left_at_map, len(posterior.variables)) == ([], 2)
    phi = np.c_[hidden(X), np.ones(40)]
    for k, scale in enumerate((0.1, 0.5)):
        exact = np.linalg.inv(phi.T @ phi / scale**2 + np.eye(4) / 4)
        np.testing.assert_allclose(covariance_of(posterior)[k::2, k::2], exact, atol=1e-8)


def test_weights_without_curvature_keep_their_values(tmp_path):
    model = network(batch_normalization=True)
    posterior = Laplace(prior_scale=1.0).fit(model, X, Y)
    posterior.save(tmp_path / "posterior.npz")
    loaded = load_posterior(tmp_path / "posterior.npz", model)
    assert loaded.left_at_map == posterior.left_at_map
    assert [path.split("/")[-1] for path in posterior.left_at_map] == ["gamma", "beta"]
    p = Predictor(model, posterior=posterior).predict_uncertainty(X, 20, seed=0)
    assert p.epistemic_variance.min() > 0
    with pytest.raises(ValueError, match="`refresh_batchnorm=None` for a posterior whose model"):
        materialize(posterior, 2, refresh_batchnorm=X)
    recurrent = keras.Sequential([keras.Input((3, 2)), L.SimpleRNN(3), L.Dense(3, "softmax")])
    with pytest.warns(UserWarning, match="2 weight matrices at their trained values.*rnn"):
        Laplace(prior_scale=1.0).fit(recurrent, np.stack([X, X, X], 1), Y)


@pytest.mark.parametrize(
    ("variables", "covariance"),
    [
        ("all", "kronecker"),
        ("all", "diagonal"),
        ("last_layer", "full"),
        ("last_layer", "kronecker"),
        ("last_layer", "diagonal"),
    ],
)
def test_saved_loaded_and_assigned(variables, covariance, model, tmp_path):
    posterior = Laplace(covariance, 0.5, variables=variables).fit(model, X, Y)
    posterior.save(tmp_path / "posterior.npz")
    other = Laplace(covariance, 0.3, variables=variables).fit(model, X[:20], Y[:20])
    seed = tf.constant([3, 4])
    assert not np.allclose(other.draw(0, seed)[0], posterior.draw(0, seed)[0])
    loaded = load_posterior(tmp_path / "posterior.npz", model)
    assert other.assign(loaded)
    for each in (loaded, other):
        for a, b in zip(each.draw(0, seed), posterior.draw(0, seed), strict=True):
            np.testing.assert_array_equal(a, b)
        assert each.log_marginal_likelihood() == posterior.log_marginal_likelihood()
        assert each.prior_scale == 0.5
        if variables == "last_layer":
            np.testing.assert_array_equal(each.predict(X), posterior.predict(X))
        else:
            assert each.left_at_map == posterior.left_at_map
    stranger = keras.models.clone_model(model)
    assert not other.assign(Laplace("diagonal", 0.5).fit(stranger, X, Y))


def test_methods_have_one_door():
    model = network()
    before = model.get_weights()
    for settings in ({}, {"variables": "last_layer", "covariance": "full", "prior_scale": 1.0}):
        method = Laplace(**settings)
        assert isinstance(method, Method)
        again = Laplace(**method.get_config())
        assert again.get_config() == method.get_config()
    assert isinstance(method.fit(model, X, Y), LastLayerLaplace)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
    fitted = Laplace(prior_scale=1.0).fit(model, X, Y, epochs=1, batch_size=8, verbose=0)
    assert not np.allclose(before[0], model.get_weights()[0])
    np.testing.assert_array_equal(fitted.center()[0], model.get_weights()[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance": "full"}, "for `covariance` with variables='all'"),
        ({"variables": "first"}, "for `variables`"),
        ({"prior_scale": "prior"}, "'evidence', 'validation' or None"),
        ({"prior_scale": 0.0}, "positive, finite number for `prior_scale`"),
        ({"seed": -1}, "for `seed`"),
        ({"likelihood": "gumbel"}, "for `likelihood`"),
        ({"likelihood": "bernoulli", "variables": "last_layer"}, "likelihood='categorical' or"),
        ({"noise_scale": "prior"}, "for `noise_scale`"),
        ({"noise_scale": [1.0, -1.0]}, "for `noise_scale`"),
        ({"noise_scale": "evidence", "prior_scale": "validation"}, "for `noise_scale`"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Laplace(**settings)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        # Before training, which would not accept these callbacks.
        ({"prior_scale": "validation"}, {"epochs": 1, "callbacks": 7}, "validation_data missing"),
        ({"prior_scale": 1.0}, {"epochs": -1}, "for `epochs`"),
        ({"prior_scale": 1.0}, {"validation_data": (X, Y)}, "validation_data given"),
        ({"prior_scale": "evidence"}, {"validation_data": (X, Y)}, "validation_data given"),
        (
            {"likelihood": "normal", "noise_scale": "evidence"},
            {"validation_data": (X, Y)},
            "for `noise_scale`",
        ),
        ({}, {"batch_size": 8}, r"`epochs` together with \['batch_size'\]"),
        ({}, {"epochs": 1, "sample_weight": Y}, "equal weight"),
    ],
)
def test_arguments_of_fit_are_checked(settings, arguments, message, model):
    with pytest.raises(ValueError, match=message):
        Laplace(**settings).fit(model, X, Y, **arguments)


def test_weights_and_odd_pairs_of_validation_data_are_refused(model):
    weighted = tf.data.Dataset.from_tensor_slices((X, Y, np.ones(len(Y)))).batch(8)
    with pytest.raises(ValueError, match="examples of equal weight"):
        Laplace().fit(model, X, Y, validation_data=weighted)
    with pytest.raises(ValueError, match=r"dataset for `validation_data`\. Received: 3 values"):
        Laplace().fit(model, X, Y, validation_data=(X, Y, Y))
    repeated = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat(10)
    with pytest.raises(ValueError, match=r"each example once.*repeats them 10 times"):
        Laplace().fit(model, repeated, epochs=1)


def test_models_that_it_does_not_describe_are_refused():
    dense = L.Dense(3, "softmax")
    random = keras.Sequential([keras.Input((2,)), MCDropout(0.5), dense])
    squared = keras.Sequential([keras.Input((2,)), L.Dense(3)])
    diverged = keras.Sequential([keras.Input((2,)), L.Dense(3, "softmax")])
    diverged.set_weights([np.full((2, 3), np.nan), np.zeros(3)])
    with pytest.raises(ValueError, match=r"without stochastic layers.*to_deterministic"):
        Laplace().fit(random, X, Y)
    with pytest.raises(ValueError, match=r"one `likelihood`, or one for each of 1 outputs"):
        Laplace(likelihood=["categorical", "normal"]).fit(squared, X, Y)
    with pytest.raises(ValueError, match="Expected finite, nonzero residuals"):
        Laplace(likelihood="normal").fit(squared, X, squared.predict(X, verbose=0))
    with pytest.raises(ValueError, match="NormalParameters"):
        Laplace(likelihood="normal").fit(squared, X, Y)
    with pytest.raises(ValueError, match="finite weights"):
        Laplace().fit(diverged, X, Y)
    diverged.set_weights([np.zeros((2, 3)), np.zeros(3)])
    with pytest.raises(ValueError, match="determine the prior scale"):
        Laplace().fit(diverged, X, Y)
