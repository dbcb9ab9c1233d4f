"""Tests of low-rank updates of frozen layers against closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import layers, posteriors
from tfp_bayes.inference import Laplace
from tfp_bayes.layers.factored_equation import factor_equation

RNG = np.random.default_rng(0)
DRAWS = 4000
BOUND = 5.5  # largest z-score


def z_scores(samples, expected):
    return (samples.mean(0) - expected) / (samples.std(0) / np.sqrt(len(samples)) + 1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_covariance_of_outputs(training):
    """Outputs have the moments of y_t = x_t W0 + b + c x_t A B with A ~ N(m, s^2).

    The tokens t of an example share the draw of A.
    """
    layer = layers.LoRADense(
        3,
        rank=2,
        alpha=3.0,
        seed=0,
        a_posterior=posteriors.MeanFieldNormal(0.3),
        b_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=0),
        bias_initializer="ones",
    )
    x = RNG.normal(size=(2, 2, 4)).astype("float32")
    layer(x)

    def one(_):
        return layer(x, training=training)

    loop = tf.function(lambda: tf.map_fn(one, tf.range(DRAWS), tf.float32), autograph=False)
    y = loop().numpy().astype("float64")
    b = layer.lora_b.kernel.numpy()
    q = layer.lora_a.random_kernel.distribution()
    mean = x @ (layer.base.kernel.numpy() + 1.5 * q.loc.numpy() @ b) + 1
    assert np.abs(z_scores(y, mean)).max() < BOUND
    noise = (y - mean).reshape(DRAWS, 4, 3)
    rows = x.reshape(4, 4)
    # The covariance over A is c^2 sum_r sum_f x_f x'_f s_fr^2 B_rk^2.
    expected = 1.5**2 * np.einsum("if,jf,fr,rk->ijk", rows, rows, q.scale.numpy() ** 2, b**2)
    if training:  # examples are independent, tokens are not
        expected *= np.kron(np.eye(2), np.ones((2, 2)))[..., None]
    products = np.einsum("sik,sjk->sijk", noise, noise)
    assert np.abs(z_scores(products, expected)).max() < BOUND


@pytest.mark.parametrize(("alpha", "factor"), [(None, 2.0), (1.5, 0.5)])
def test_the_update_is_scaled(alpha, factor):
    layer = layers.LoRADense(4, rank=3, alpha=alpha, a_prior=None, b_initializer="he_normal")
    x = RNG.normal(size=(5, 6)).astype("float32")
    y = layer(x)
    a, b = (np.float64(part.kernel) for part in (layer.lora_a, layer.lora_b))
    kernel = layer.base.kernel + factor * a @ b
    np.testing.assert_allclose(layer.merged_kernel(), kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "output_shape", "shape"),
    [
        ("abc,cde->abde", (None, 2, 3), (2, 5, 4)),
        ("abcd,cde->abe", (None, 6), (2, 5, 4, 3)),
        ("...b,bc->...c", 3, (2, 5, 4)),
        ("ab...,bc->ac...", 3, (2, 4, 5)),
        ("abc,cd->ad", 3, (2, 5, 4)),
        ("abc,ec->abe", (5, 3), (2, 5, 4)),
    ],
)
def test_einsum_updates_its_kernel(equation, output_shape, shape):
    x = RNG.normal(size=shape).astype("float32")
    settings = {"a_prior": None, "b_initializer": "he_normal", "rank": 2, "activation": "tanh"}
    layer = layers.LoRAEinsumDense(equation, output_shape, **settings)
    y = layer(x)
    plain = keras.layers.EinsumDense(equation, output_shape, activation="tanh")
    plain.build(shape)
    plain.set_weights([layer.merged_kernel()])
    np.testing.assert_allclose(y, plain(x), rtol=1e-4, atol=1e-5)
    assert np.abs(layer.merged_kernel() - layer.base.kernel).max() > 0.01
    update = (layer.merged_kernel() - layer.base.kernel).numpy()
    is_row = factor_equation(equation, plain.partial_output_shape, 2).is_row
    order = np.argsort([not row for row in is_row], kind="stable")
    rows, _ = layer._equation.sizes(update.shape)
    assert np.linalg.matrix_rank(update.transpose(order).reshape(rows, -1), tol=1e-4) == 2


def test_what_has_no_update_is_refused():
    with pytest.raises(ValueError, match=r"axes of inputs and axes of outputs.*'abc,bcd->abd'"):
        layers.LoRAEinsumDense("abc,bcd->abd", (5, 3))
    layer = layers.LoRADense(3, rank=4, name="dense")
    with pytest.raises(ValueError, match=r"'dense' of at most 3.*\(6, 3\).*Received: rank=4"):
        layer.build((None, 6))


def test_flags_do_not_reach_frozen_weights():
    layer = layers.LoRADense(3, rank=1)
    model = keras.Sequential([keras.Input((4,)), layer])
    trained = ["kernel_loc", "kernel_untransformed_scale", "kernel"]
    for flag in (False, True):
        model.trainable = flag
        assert [v.name for v in model.trainable_variables] == (trained if flag else [])
    assert not layer.base.kernel.trainable
    assert layer.base.trainable is False


def test_prior_of_the_first_factor():
    layer = layers.LoRADense(3, rank=2, a_posterior=posteriors.MeanFieldNormal(0.05))
    layer.build((None, 4))
    m = layer.lora_a.kernel_loc.numpy().astype("float64")
    s, p = 0.05, 0.2
    expected = np.sum(np.log(p / s) + (s**2 + m**2) / (2 * p**2) - 0.5)
    np.testing.assert_allclose(layer.lora_a.kl_divergence(), expected, rtol=1e-4)


def test_laplace_is_exact_where_the_update_is_linear():
    """Draws of `Laplace` have the closed-form covariance of A if B is fixed."""
    layer = layers.LoRADense(
        2,
        rank=2,
        a_prior=None,
        a_initializer="zeros",
        b_initializer=keras.initializers.RandomNormal(stddev=0.5, seed=1),
        kernel_initializer="zeros",
    )
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.base.bias.assign([0.0, 1.0])  # location 0 and scale 1 at A = 0
    layer.lora_b.trainable = False
    x = RNG.normal(size=(20, 3)).astype("float32")
    posterior = Laplace(prior_scale=0.7, likelihood="normal").fit(model, x, RNG.normal(size=20))
    assert [v.path for v in posterior.variables] == [layer.lora_a.kernel.path]

    # The Fisher information of location and scale is 1 and 2, see Observations.
    b = layer.scaling * layer.lora_b.kernel.numpy().astype("float64")
    x = x.astype("float64")
    precision = np.kron(x.T @ x, b @ np.diag([1, 2]) @ b.T) + np.eye(6) / 0.7**2
    covariance = np.linalg.inv(precision)
    draw = tf.function(
        lambda: tf.map_fn(
            lambda i: posterior.draw(i, tf.stack([i, 4]))[0], tf.range(DRAWS), tf.float32
        ),
        autograph=False,
    )
    noise = draw().numpy().reshape(DRAWS, 6)
    assert np.abs(z_scores(noise[:, :, None] * noise[:, None], covariance)).max() < BOUND
