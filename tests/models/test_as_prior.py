"""Tests of the posterior of one part of the data as the prior for the next part."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tfp_bayes
from tfp_bayes import BayesianModel, as_prior, priors
from tfp_bayes._plumbing.fresh import initialize
from tfp_bayes.layers import (
    DenseFlipout,
    DenseLocalReparameterization,
    DenseReparameterization,
    MCDropout,
    variational_layers,
)
from tfp_bayes.posteriors.scale import from_scale, to_scale

L = keras.layers
RANDOM_BIAS = {"bias_prior": "normal", "bias_posterior": "mean_field_normal"}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype("float32")
Y = (X[:, 0] > 0).astype(int)


def network(**arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    x = DenseLocalReparameterization(5, "tanh", name="body", **RANDOM_BIAS)(inputs)
    head = DenseLocalReparameterization(2, "softmax", name="head", **RANDOM_BIAS)
    model = BayesianModel(inputs, head(x), num_samples=4, **arguments)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    return model


def moments(layer, weight):
    q = getattr(layer, f"random_{weight}").distribution()
    return np.asarray(q.loc, "float64"), np.asarray(q.scale, "float64")


@pytest.fixture(scope="module")
def fitted():
    model = network()
    for layer in variational_layers(model):
        for weight in layer.trainable_weights:
            low, high = (-0.3, 0) if "scale" in weight.name else (-1, 1)
            weight.assign(RNG.uniform(low, high, weight.shape))
    return model


def test_divergence_is_that_of_two_normals_and_zero_at_the_start(fitted):
    model = as_prior(fitted)
    assert float(model.kl_divergence()) == 0
    tfp_bayes.set_kl_weight(model, 1 / len(X))
    with tf.GradientTape() as tape:
        outputs = model(X, training=True)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y, outputs))
    for v, gradient in zip(
        model.trainable_variables,
        tape.gradient(loss, [v.value for v in model.trainable_variables]),
    ):
        v.assign_sub(0.1 * gradient)
    expected = 0
    for old, new in zip(variational_layers(fitted), variational_layers(model)):
        for weight in ("kernel", "bias"):
            (m0, s0), (m, s) = moments(old, weight), moments(new, weight)
            assert np.abs(s / s0 - 1).max() > 1e-3  # scales are trained as well
            expected += (np.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5).sum()
    assert expected > 0.01
    np.testing.assert_allclose(model.kl_divergence(), expected, rtol=1e-4)


def test_divergence_against_integration(fitted):
    model = as_prior(fitted)
    layer = model.get_layer("head")
    layer.bias_loc.assign_add([0.01, -0.02])
    expected = 0
    for m, s, m0, s0 in zip(*moments(layer, "bias"), *moments(fitted.get_layer("head"), "bias")):
        q, p = scipy.stats.norm(m, s), scipy.stats.norm(m0, s0)
        expected += q.expect(lambda w, q=q, p=p: q.logpdf(w) - p.logpdf(w))
    np.testing.assert_allclose(model.kl_divergence(), expected, rtol=1e-4)


@pytest.mark.parametrize("num_parts", [2, 5])
def test_mean_field_on_orthogonal_features_in_parts_equals_all_at_once(num_parts):
    """If mean field is exact, the optimum after the last part is the posterior of all data."""
    rng = np.random.default_rng(2)
    noise, prior_scale = 0.5, 1.25
    phi = np.concatenate([np.linalg.qr(rng.normal(size=(8, 3)))[0] for _ in range(num_parts)])
    phi *= rng.uniform(0.5, 2, 3)
    y = phi @ [1.0, -2.0, 0.5] + noise * rng.normal(size=len(phi))
    layer = DenseReparameterization(
        1, kernel_prior=priors.Normal(scale=prior_scale), use_bias=False, dtype="float64"
    )
    model = keras.Sequential([keras.Input((3,)), layer])
    for part in range(num_parts):
        seen = slice(0, 8 * (part + 1))
        precision = (phi[seen] ** 2).sum(0) / noise**2 + prior_scale**-2
        mean = phi[seen].T @ y[seen] / noise**2 / precision
        if part:
            model = as_prior(model)
        (layer,) = model.layers
        layer.kernel_loc.assign(mean[:, None])
        layer.kernel_untransformed_scale.assign(from_scale(precision**-0.5)[:, None])
        # The bound of this part, under the prior from earlier parts, is at its maximum.
        x, targets = phi[8 * part : 8 * (part + 1)], y[8 * part : 8 * (part + 1)]
        with tf.GradientTape() as tape:
            residual = targets - tf.linalg.matvec(x, layer.kernel_loc[:, 0])
            spread = tf.linalg.matvec(x**2, to_scale(layer.kernel_untransformed_scale)[:, 0] ** 2)
            nll = tf.reduce_sum(residual**2 + spread) / (2 * noise**2)
            bound = nll + tf.cast(layer.kl_divergence(), "float64")
        gradients = tape.gradient(bound, [v.value for v in layer.trainable_variables])
        assert len(gradients) == 2
        assert np.abs(gradients).max() < 1e-10


def test_private_layers_start_anew_under_their_own_prior(fitted):
    model = as_prior(fitted, private="head")
    head = model.get_layer("head")
    assert isinstance(head.kernel_prior, priors.Normal)
    assert isinstance(model.get_layer("body").kernel_prior, priors.ElementwiseNormal)
    assert not np.array_equal(head.kernel_loc, fitted.get_layer("head").kernel_loc)
    np.testing.assert_allclose(model.kl_divergence(), head.kl_divergence())
    with pytest.raises(
        ValueError, match=r"'hat', which names 0 layers. Hint: the model has \['body'"
    ):
        as_prior(fitted, private=["head", "hat"])


def test_arrays_survive_files_clones_and_new_starts(fitted, tmp_path):
    model = as_prior(fitted)
    assert type(model) is BayesianModel
    assert not model.compiled
    model.get_layer("body").kernel_loc.assign_add(np.full((3, 5), 0.01))
    kl = float(model.kl_divergence())
    assert kl > 0
    model.save(tmp_path / "model.keras")
    assert float(keras.models.load_model(tmp_path / "model.keras").kl_divergence()) == kl
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    assert float(clone.kl_divergence()) != kl
    clone.load_weights(tmp_path / "model.weights.h5")
    assert float(clone.kl_divergence()) == kl
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert float(clone.kl_divergence()) == kl
    body = model.get_layer("body")
    prior, start = body.kernel_prior_loc.numpy(), body.kernel_loc.numpy()
    initialize(model, seed=3)  # as in each round of a learner and each member of an ensemble
    np.testing.assert_array_equal(body.kernel_prior_loc, prior)
    assert not np.array_equal(body.kernel_loc, start)


def convolutional(trainable):
    inputs = keras.Input((6, 6, 1))
    x = tfp_bayes.layers.Conv2DFlipout(2, 3, name="conv", **RANDOM_BIAS)(inputs)
    x = L.BatchNormalization(name="norm", trainable=trainable)(x)
    x = L.Add()([x, L.ReLU()(x)])
    x = MCDropout(0.5)(L.Flatten()(x))
    return BayesianModel(inputs, DenseFlipout(2, "softmax", name="head")(x))


def test_what_has_no_distribution_is_refused_by_name():
    model = convolutional(trainable=True)
    problems = "norm/gamma, norm/beta, norm/moving statistics, head/bias_loc"
    with pytest.raises(ValueError, match=f"{problems}. Hint: bias_prior='normal'"):
        as_prior(model)
    with pytest.raises(ValueError, match=r"Received: head/bias_loc\. Hint"):
        as_prior(model, private="norm")
    new = as_prior(model, private=["norm", "head"])
    assert new.get_layer("norm").trainable
    frozen = convolutional(trainable=False)
    statistics = RNG.uniform(1, 2, 2)
    frozen.get_layer("norm").moving_variance.assign(statistics)
    new = as_prior(frozen, private="head")
    new.compile("adam", "sparse_categorical_crossentropy")
    images = RNG.normal(size=(8, 6, 6, 1)).astype("float32")
    new.fit(images, np.arange(8) % 2, verbose=0)
    np.testing.assert_allclose(new.get_layer("norm").moving_variance, statistics, rtol=1e-6)
    low_rank = DenseReparameterization(
        2, "softmax", kernel_posterior="low_rank_normal", use_bias=False, name="low"
    )
    with pytest.raises(ValueError, match="low/kernel_loc, low/kernel_untransformed_scale, low/ker"):
        as_prior(keras.Sequential([keras.Input((3,)), low_rank]))


def test_layers_inside_layers_and_broken_posteriors_are_refused(fitted):
    inner = L.TimeDistributed(DenseFlipout(2, name="inner", **RANDOM_BIAS), name="outer")
    with pytest.raises(ValueError, match="outer, whose random layers are inside it"):
        as_prior(keras.Sequential([keras.Input((4, 3)), inner]))
    model = network()
    model.get_layer("body").bias_untransformed_scale.assign(np.full(5, -1e4))
    with pytest.raises(ValueError, match=r"positive scales.* Received: other values in body/bias"):
        as_prior(model)
    with pytest.raises(ValueError, match="which has no graph"):
        as_prior(L.Dense(3))


def test_plain_models_nested_models_and_float64():
    body = keras.Sequential([keras.Input((3,)), DenseFlipout(4, "relu", name="a", **RANDOM_BIAS)])
    inputs = keras.Input((3,))
    outputs = DenseFlipout(2, dtype="float64", name="a", **RANDOM_BIAS)(body(inputs))
    model = keras.Model(inputs, outputs)
    new = as_prior(model, private=f"{body.name}/a")
    assert isinstance(new, keras.Model)
    assert not isinstance(new, BayesianModel)
    last = new.get_layer("a")
    assert last.kernel_prior_scale.dtype == "float64"
    np.testing.assert_array_equal(
        last.kernel_prior_scale, to_scale(last.kernel_untransformed_scale)
    )
    assert float(tfp_bayes.kl_divergence(new)) > 0
    assert float(last.kl_divergence()) == 0
