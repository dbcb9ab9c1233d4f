"""Priors, posteriors and the KL between them, against SciPy and TensorFlow Probability."""

import inspect
import itertools

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes import posteriors, priors
from tfp_bayes.layers import DenseFlipout, DenseLocalReparameterization, DenseReparameterization
from tfp_bayes.posteriors.scale import from_scale, to_scale

PRIORS = {
    "normal": priors.Normal(0.1, 0.7),
    "laplace": priors.Laplace(-0.2, 0.5),
    "scale mixture": priors.ScaleMixture(0.25, 1.5, 0.1),
    "student t": priors.StudentT(3.0, 0.1, 0.4),
    "empirical bayes": priors.HierarchicalNormal(0.6),
    "half-cauchy": priors.HierarchicalNormal(0.6, "half_cauchy", 0.5),
    "elementwise": priors.ElementwiseNormal(0.1, 0.7),
    "inverse gamma": priors.HierarchicalNormal(0.6, "inverse_gamma", 0.8, 3.0),
}
POSTERIORS = {
    "mean field": posteriors.MeanFieldNormal(0.3),
    "deterministic": posteriors.Deterministic(),
    "low rank": posteriors.LowRankNormal(2, 0.3),
    "flow": posteriors.NormalizingFlow(2, 4, 0.3),
}
DENSITIES = {
    "normal": scipy.stats.norm(0.1, 0.7).pdf,
    "laplace": scipy.stats.laplace(-0.2, 0.5).pdf,
    "scale mixture": lambda w: (
        0.25 * scipy.stats.norm(0, 1.5).pdf(w) + 0.75 * scipy.stats.norm(0, 0.1).pdf(w)
    ),
    "student t": scipy.stats.t(3.0, 0.1, 0.4).pdf,
    "empirical bayes": scipy.stats.norm(0, 0.6).pdf,
    "elementwise": scipy.stats.norm(0.1, 0.7).pdf,
}
DRAWS = 4000
LARGEST_Z = 5


def make(prior="normal", posterior="mean_field_normal", cls=DenseReparameterization, shape=(3, 2)):
    """Return a built layer whose parameters are far from their initial values."""
    layer = cls(shape[1], kernel_prior=prior, kernel_posterior=posterior, use_bias=False, seed=0)
    layer.build((None, shape[0]))
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        if "prior_scale" not in variable.name:
            low, high = (-0.2, 0) if "untransformed_scale" in variable.name else (-0.7, 0.7)
            if "coupling" in variable.name:
                low, high = -1.5, 1.5
            variable.assign(rng.uniform(low, high, variable.shape))
    return layer


def scale_of(layer):
    return np.logaddexp(0, 10 * layer.kernel_untransformed_scale.numpy())


def repeat(function, draws=DRAWS):
    """Call a function of a seed `draws` times in one graph."""
    loop = tf.function(
        lambda: tf.map_fn(
            lambda s: function(tf.stack([s, 7])), tf.range(draws), fn_output_signature=tf.float32
        ),
        autograph=False,
    )
    return loop().numpy()


def sample(layer, draws=DRAWS):
    return repeat(lambda seed: layer.random_kernel.draw(seed).value, draws)


def kl_draws(layer):
    weight = layer.random_kernel
    return repeat(lambda seed: weight.kl_divergence(weight.draw(seed), seed))


def assert_mean(draws, expected, tolerance=1e-5):
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - expected), LARGEST_Z * error + tolerance)


# The KL divergence.


@pytest.mark.parametrize("name", DENSITIES)
def test_kl_of_mean_field_against_quadrature(name):
    """The KL is a sum over weights in nats; estimates without a closed form are unbiased."""
    layer = make(PRIORS[name])
    expected = 0
    for m, s in zip(
        np.ravel(layer.kernel_loc),
        np.ravel(scale_of(layer)),
    ):
        q, w = scipy.stats.norm(m, s), np.linspace(m - 9 * s, m + 9 * s, 20_001)
        integrand = q.pdf(w) * (q.logpdf(w) - np.log(DENSITIES[name](w)))
        expected += scipy.integrate.trapezoid(integrand, w)
    draws = kl_draws(layer)
    assert_mean(draws, expected, tolerance=1e-4)
    assert (draws.std() < 1e-6) == (name in ("normal", "empirical bayes", "elementwise"))


def test_kl_of_normals_against_tfp():
    layer = make(priors.Normal(0.2, 0.9), shape=(40, 30))
    q = tfd.Normal(layer.kernel_loc.numpy(), scale_of(layer))
    expected = tf.reduce_sum(tfd.kl_divergence(q, tfd.Normal(0.2, 0.9)))
    np.testing.assert_allclose(layer.kl_divergence(), expected, rtol=1e-6)


def test_kl_of_low_rank_against_the_closed_form_of_two_full_normals():
    layer = make("normal", POSTERIORS["low rank"])
    q = layer.random_kernel.distribution().distribution
    p = tfd.MultivariateNormalFullCovariance(np.zeros(6, "float32"), np.eye(6, dtype="float32"))
    full = tfd.MultivariateNormalFullCovariance(q.mean(), q.covariance())
    assert_mean(kl_draws(layer), tfd.kl_divergence(full, p).numpy())


def test_low_rank_covariance_is_made_of_squared_scales():
    """Draws have the covariance diag(scale^2) + F F^T of the layer's variables."""
    layer = make("normal", POSTERIORS["low rank"], shape=(2, 1))
    scale = scale_of(layer).ravel()
    factor = layer.kernel_factor.numpy()
    draws = sample(layer).reshape(DRAWS, 2)
    deviations = draws - layer.kernel_loc.numpy().ravel()
    products = np.einsum("si,sj->sij", deviations, deviations)
    assert_mean(products, np.diag(scale**2) + factor @ factor.T)


@pytest.mark.parametrize("prior", ["normal", "scale_mixture"])
def test_kl_of_many_weights_in_half_precision(prior):
    """A sum beyond the largest float16 number equals that of a float32 layer."""
    half, single = (
        DenseReparameterization(
            300,
            kernel_prior=prior,
            kernel_posterior="deterministic" if prior == "normal" else "mean_field_normal",
            kernel_initializer=keras.initializers.Constant(2.0),
            use_bias=False,
            dtype=dtype,
        )
        for dtype in ("float16", "float32")
    )
    half.build((None, 300))
    single.build((None, 300))
    kl = half.kl_divergence()
    assert kl.dtype == "float32"
    assert float(kl) > 100_000
    assert float(kl) == pytest.approx(float(single.kl_divergence()), rel=0.01)


@pytest.mark.parametrize("name", DENSITIES)
def test_kl_of_a_point_is_minus_its_log_prior(name):
    layer = make(PRIORS[name], "deterministic")
    expected = -np.log(DENSITIES[name](layer.kernel_loc.numpy())).sum()
    np.testing.assert_allclose(layer.kl_divergence(), expected, rtol=1e-5)


@pytest.mark.parametrize("cls", [DenseReparameterization, DenseFlipout])
def test_kl_without_closed_form_uses_the_draw_of_the_pass(cls):
    """The estimate uses the weights that the pass drew, which identity inputs reveal."""
    layer = make("scale_mixture", cls=cls)
    layer.kl_weight.assign(1.0)
    outputs = layer(np.eye(3, dtype="float32"), training=True).numpy()
    (loss,) = layer.losses
    if cls is DenseFlipout:  # outputs show the draw with flipped signs, so repeat the draw
        state = layer.seed_generator.state.value
        layer.seed_generator.state.assign(state - tf.constant([0, 1], state.dtype))
        outputs = layer.random_kernel.draw(_kernel_seed(layer)).value.numpy()
    q = layer.random_kernel.distribution()
    p = PRIORS["scale mixture"].__class__().distribution(tf.float32)
    expected = tf.reduce_sum(q.log_prob(outputs)) - tf.reduce_sum(p.log_prob(outputs))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def _kernel_seed(layer):
    from tfp_bayes._plumbing.seeds import fold_in

    return fold_in(layer.draw_seed(training=True), 0)


@pytest.mark.parametrize("hyperprior", ["half-cauchy", "inverse gamma"])
def test_kl_under_an_uncertain_scale_against_quadrature(hyperprior):
    """KL = E_tau [log q(tau) - log p(tau) + KL(q(w) || N(0, tau))] with log-normal q(tau)."""
    layer = make(PRIORS[hyperprior])
    q_tau = scipy.stats.lognorm(np.log1p(np.exp(np.log(np.expm1(0.1)))), scale=0.6)
    if hyperprior == "half-cauchy":
        log_p = scipy.stats.halfcauchy(0, 0.5).logpdf
    else:  # on the variance; the density of the scale has the factor d tau^2 / d tau = 2 tau

        def log_p(tau):
            return scipy.stats.invgamma(3.0, scale=0.8).logpdf(tau**2) + np.log(2 * tau)

    m, s = layer.kernel_loc.numpy(), scale_of(layer)

    def integrand(tau):
        given = (np.log(tau / s) + (s**2 + m**2) / (2 * tau**2) - 0.5).sum()
        return q_tau.pdf(tau) * (q_tau.logpdf(tau) - log_p(tau) + given)

    expected = scipy.integrate.quad(integrand, 0.3, 1.3, limit=500)[0]
    assert_mean(kl_draws(layer), expected)


def test_empirical_bayes_finds_the_scale_of_the_weights():
    """The KL is stationary at the best scale, sqrt(mean(m^2 + s^2))."""
    layer = make("hierarchical_normal", shape=(20, 10))
    scale = scale_of(layer)
    best = np.sqrt((layer.kernel_loc.numpy() ** 2 + scale**2).mean())
    layer.kernel_untransformed_prior_scale.assign(np.log(np.expm1(best)))
    with tf.GradientTape() as tape:
        kl = layer.kl_divergence()
    assert abs(tape.gradient(kl, layer.kernel_untransformed_prior_scale)) < 1e-3
    layer.kernel_untransformed_prior_scale.assign(0.0)
    assert layer.kl_divergence() > kl


def test_a_large_learned_scale_does_not_overflow():
    prior = priors.HierarchicalNormal(initial_scale=1e3)
    layer = DenseFlipout(2, kernel_prior=prior)
    layer.build((None, 3))
    assert float(tf.math.softplus(layer.kernel_untransformed_prior_scale)) == pytest.approx(1e3)


# The posteriors.


@pytest.mark.parametrize("name", ["mean field", "low rank", "flow"])
def test_samples_follow_the_density(name):
    """Moments of draws match the closed form, or for the flow integrals of its density."""
    layer = make("normal", POSTERIORS[name], shape=(2, 1))
    draws = sample(layer).reshape(DRAWS, 2)
    assert_mean(draws, np.ravel(layer.kernel), tolerance=0.02 if name == "flow" else 1e-5)
    q = layer.random_kernel.distribution()
    if name == "mean field":
        covariance = np.diag(np.ravel(q.variance()))
    elif name == "low rank":
        covariance = q.distribution.covariance().numpy()
    else:
        grid = np.linspace(-6, 6, 601, dtype="float32")
        points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2, 1)
        density = np.exp(q.log_prob(points)).reshape(-1) * (grid[1] - grid[0]) ** 2
        assert density.sum() == pytest.approx(1, abs=1e-3)
        flat = points[..., 0]
        mean = (density[:, None] * flat).sum(0)
        covariance = (density[:, None] * (flat - mean)).T @ (flat - mean)
        assert np.abs(scipy.stats.skew(draws)).max() > 0.1  # no longer a normal
    products = draws - draws.mean(0)
    assert_mean(np.einsum("si,sj->sij", products, products), covariance, tolerance=2e-3)


@pytest.mark.parametrize("scale", [1e-6, 0.0067, 3.0, 1e3])
def test_from_scale_inverts_to_scale(scale):
    weight = from_scale(np.float32(scale)).astype("float32")
    assert float(to_scale(weight)) == pytest.approx(scale, rel=1e-5)


def test_a_flow_starts_as_mean_field():
    layer = DenseReparameterization(2, kernel_posterior=POSTERIORS["flow"], use_bias=False)
    layer.build((None, 3))
    draws = sample(layer).reshape(DRAWS, -1)
    assert_mean(draws, np.ravel(layer.kernel_loc))
    np.testing.assert_allclose(draws.std(0), 0.3, rtol=0.06)


# Every combination.


@pytest.mark.parametrize("cls", [DenseLocalReparameterization, DenseFlipout])
@pytest.mark.parametrize("posterior", ["low rank", "flow"])
def test_estimators_that_need_independent_weights_say_so(posterior, cls):
    with pytest.raises(ValueError, match="use the Reparameterization layer"):
        make("normal", POSTERIORS[posterior], cls)


# Every prior with every posterior. The other estimators take every prior with one of their
# posteriors in turn, because the KL does not depend on the estimator.
TRAINED = [
    *itertools.product(PRIORS, POSTERIORS, [DenseReparameterization]),
    *zip(PRIORS, itertools.cycle(["mean field", "deterministic"]), itertools.repeat(DenseFlipout)),
    *zip(
        PRIORS,
        itertools.cycle(["deterministic", "mean field"]),
        itertools.repeat(DenseLocalReparameterization),
    ),
]


@pytest.mark.parametrize(("prior", "posterior", "cls"), TRAINED)
def test_every_combination_trains(prior, posterior, cls):
    layer = make(PRIORS[prior], POSTERIORS[posterior], cls)
    layer.kl_weight.assign(0.1)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            outputs = layer(x, training=True)
            loss = tf.reduce_mean(tf.square(outputs - 1)) + layer.losses[0]
        gradients = tape.gradient(loss, layer.trainable_variables)
        for variable, gradient in zip(layer.trainable_variables, gradients):
            variable.assign_sub(0.03 * gradient)
        return loss, tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])

    steps = [step() for _ in range(60)]
    assert all(finite for _, finite in steps)
    losses = [loss for loss, _ in steps]
    assert np.mean(losses[-20:]) < np.mean(losses[:20])


DTYPES = ["float32", "float64", "mixed_float16", "mixed_bfloat16"]


# Every prior with every posterior, and each of them with every dtype.
@pytest.mark.parametrize(
    ("prior", "posterior", "dtype"),
    [
        (prior, posterior, DTYPES[(i + j) % len(DTYPES)])
        for i, prior in enumerate(PRIORS)
        for j, posterior in enumerate(POSTERIORS)
    ],
)
def test_kl_keeps_full_precision(prior, posterior, dtype):
    layer = DenseReparameterization(
        2, kernel_prior=PRIORS[prior], kernel_posterior=POSTERIORS[posterior], dtype=dtype
    )
    layer.build((None, 3))
    kl = layer.kl_divergence()
    assert kl.dtype == "float32"
    assert np.isfinite(kl)
    assert layer.kernel_loc.dtype == ("float64" if dtype == "float64" else "float32")
    assert layer(np.ones((2, 3)), training=True).dtype == layer.compute_dtype


# Configuration.


def public(module, base):
    return {c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, base)} - {
        base
    }


def test_every_class_has_a_case():
    assert public(priors, priors.Prior) == {type(prior) for prior in PRIORS.values()}
    assert public(posteriors, posteriors.Posterior) == {type(q) for q in POSTERIORS.values()}


@pytest.mark.parametrize("each", [*PRIORS.values(), *POSTERIORS.values()], ids=repr)
def test_string_dictionary_and_object(each):
    module = priors if isinstance(each, priors.Prior) else posteriors
    copy = module.get(keras.saving.serialize_keras_object(each))
    assert type(copy) is type(each)
    assert copy.get_config() == each.get_config()
    assert module.get(each) is each
    name = "".join("_" + c.lower() if c.isupper() else c for c in type(each).__name__)[1:]
    assert type(module.get(name)) is type(each)
    assert repr(each).startswith(type(each).__name__)


BAD = [
    (priors.Normal, {"scale": 0.0}, "Received: scale=0.0"),
    (priors.Normal, {"scale": float("nan")}, "Received: scale=nan"),
    (priors.Normal, {"loc": float("nan")}, "Received: loc=nan"),
    (priors.Laplace, {"loc": float("inf")}, "Received: loc=inf"),
    (priors.StudentT, {"loc": None}, "Received: loc=None"),
    (priors.Laplace, {"scale": -1}, "Received: scale=-1"),
    (priors.StudentT, {"df": "3"}, "Received: df='3'"),
    (priors.ScaleMixture, {"pi": 1.0}, "Received: pi=1.0"),
    (priors.ScaleMixture, {"scale2": 0}, "Received: scale2=0"),
    (priors.HierarchicalNormal, {"hyperprior": "gamma"}, "Received: hyperprior='gamma'"),
    (priors.HierarchicalNormal, {"initial_scale": None}, "Received: initial_scale=None"),
    (posteriors.MeanFieldNormal, {"initial_scale": 0}, "Received: initial_scale=0"),
    (posteriors.LowRankNormal, {"rank": 0}, "Received: rank=0"),
    (posteriors.NormalizingFlow, {"num_couplings": 0}, "Received: num_couplings=0"),
    (posteriors.NormalizingFlow, {"hidden_units": 2.5}, "Received: hidden_units=2.5"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), BAD)
def test_bad_arguments(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_numpy_number_is_a_number(dtype):
    layer = DenseReparameterization(2, kernel_prior=priors.Normal(0, np.float32(0.5)), dtype=dtype)
    layer(np.ones([3, 4]))
    twin = DenseReparameterization.from_config(layer.get_config())
    assert twin.kernel_prior.scale == 0.5


def test_a_flow_needs_two_weights():
    with pytest.raises(ValueError, match="two or more elements"):
        make("normal", "normalizing_flow", shape=(1, 1))


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="'laplace', 'normal', 'scale_mixture'"):
        priors.get("gauss")
    with pytest.raises(ValueError, match="Received: kernel_posterior=3"):
        posteriors.get(3, "kernel_posterior")
