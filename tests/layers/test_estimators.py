"""Tests of mean and covariance of every variational layer against the closed form.

The outputs before the activation are linear in the weights. So their mean is the output of the
Keras layer at the mean weights, and their covariance is J diag(s^2) J^T with the layer's Jacobian
J. The estimators differ in which of these covariances they keep in training.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_layers import VARIATIONAL

from tfp_bayes import layers
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.posteriors.scale import from_scale

DRAWS = 5000
BATCH = 2
# With 10^6 z-scores the probability of one beyond 6 is 0.2%, and the seed is fixed.
LARGEST_Z = 6


def einsum(equation, output_shape, bias_axes):
    return {"equation": equation, "output_shape": output_shape, "bias_axes": bias_axes}


CONV_2D = {"filters": 2, "kernel_size": 2}
SETTINGS = {
    "Dense": ({"units": 2}, (3,)),
    "Dense, sequence": ({"units": 2}, (3, 2)),
    "EinsumDense": (einsum("abc,cde->abde", (None, 2, 2), "de"), (3, 2)),
    "EinsumDense, left ellipsis": (einsum("...cd,cde->...ed", (3, 2), "e"), (2, 1, 2)),
    "EinsumDense, right ellipsis": (einsum("ab...,bc->ac...", (2,), "c"), (2, 3)),
    "Conv1D": ({"filters": 2, "kernel_size": 2, "padding": "causal"}, (3, 2)),
    "Conv2D": (CONV_2D, (3, 3, 2)),
    "Conv2D, strides": ({**CONV_2D, "strides": 2, "padding": "same"}, (3, 3, 2)),
    "Conv2D, dilation": ({**CONV_2D, "dilation_rate": 2}, (4, 4, 1)),
    "Conv2D, groups": ({**CONV_2D, "groups": 2}, (3, 3, 4)),
    "Conv3D": ({"filters": 2, "kernel_size": 2}, (2, 2, 3, 2)),
    "DepthwiseConv2D": ({"kernel_size": 2, "depth_multiplier": 2}, (3, 3, 2)),
    "Conv2DTranspose": ({"filters": 2, "kernel_size": 2, "strides": 2}, (2, 1, 2)),
}
ESTIMATORS = ("Reparameterization", "LocalReparameterization", "Flipout")
CASES = [
    (setting, estimator)
    for setting in SETTINGS
    for estimator in ESTIMATORS
    if hasattr(layers, setting.split(",")[0] + estimator)
]


def make(setting, estimator, **kwargs):
    """Return a layer whose weights are all random, its Keras counterpart, and two inputs."""
    keras_name = setting.split(",")[0]
    arguments, shape = SETTINGS[setting]
    layer = getattr(layers, keras_name + estimator)(
        **arguments, bias_prior="normal", bias_posterior="mean_field_normal", seed=1, **kwargs
    )
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(BATCH, *shape)), "float32")
    twin = getattr(keras.layers, keras_name)(**arguments)
    layer(x)
    twin(x)
    for variable in layer.trainable_variables:
        low, high = (-0.2, 0) if "untransformed_scale" in variable.name else (-1, 1)
        variable.assign(rng.uniform(low, high, variable.shape))
    twin.set_weights([layer.kernel_loc.numpy(), layer.bias_loc.numpy()])
    return layer, twin, x


def closed_form(layer, twin, x):
    """Return the mean (B, P) and the covariance (B, P, B, P) of the outputs."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = tf.reshape(twin(x), [BATCH, -1])
    parts = tape.jacobian(outputs, twin.trainable_variables, experimental_use_pfor=False)
    scales = [w.distribution().stddev() for w in (layer.random_kernel, layer.random_bias)]
    covariance = 0
    for jacobian, scale in zip(parts, scales):
        jacobian = tf.reshape(jacobian, [*outputs.shape, -1])
        scaled = jacobian * tf.reshape(scale, [-1])
        covariance += np.einsum("apw,bqw->apbq", scaled, scaled)
    return outputs.numpy(), covariance


def draw(layer, x, training):
    """Return outputs (S, B, P) of S = DRAWS calls."""

    def one(s):
        layer.seed_generator.state.assign(tf.cast(fold_in(as_seed(3), s), "int64"))
        return tf.reshape(layer(x, training=training), [BATCH, -1])

    loop = tf.function(lambda: tf.map_fn(one, tf.range(DRAWS), tf.float32), autograph=False)
    return loop().numpy()


@pytest.mark.parametrize(
    ("setting", "estimator", "training"),
    [(setting, "Reparameterization", False) for setting in SETTINGS]
    + [(*case, True) for case in CASES if case[1] != "Reparameterization"],
)
def test_mean_and_covariance(setting, estimator, training):
    layer, twin, x = make(setting, estimator)
    mean, covariance = closed_form(layer, twin, x)
    assert covariance.max() > 0.01
    same_example = np.eye(BATCH)[:, None, :, None]
    if training and estimator == "Flipout":
        # Examples are uncorrelated, and pixels of one example keep their covariance.
        covariance = covariance * same_example
    if training and estimator == "LocalReparameterization":
        # Only the variances are kept.
        covariance = covariance * same_example * np.eye(mean.shape[1])[None, :, None, :]
    y = draw(layer, x, training)
    deviations = y - mean
    variance = np.einsum("apap->ap", covariance)
    np.testing.assert_array_less(
        np.abs(deviations.mean(0)), LARGEST_Z * np.sqrt(variance / DRAWS) + 1e-6
    )
    sample = np.einsum("sap,sbq->apbq", deviations, deviations) / DRAWS
    # For normal draws, var(sample covariance) = (C_aa C_bb + C_ab^2) / S.
    error = np.sqrt((np.einsum("ap,bq->apbq", variance, variance) + covariance**2) / DRAWS)
    np.testing.assert_array_less(np.abs(sample - covariance), LARGEST_Z * error + 1e-6)


@pytest.mark.parametrize(("setting", "estimator"), CASES)
def test_draws_that_all_estimators_share(setting, estimator):
    """Outputs at inference, and of Reparameterization in training, are those tested above."""
    reference, _, x = make(setting, "Reparameterization")
    state = reference.seed_generator.state.numpy()
    expected = reference(x, training=False)
    layer, _, _ = make(setting, estimator)
    for training in (False, True) if estimator == "Reparameterization" else (False,):
        layer.seed_generator.state.assign(state)
        np.testing.assert_array_equal(layer(x, training=training), expected)


@pytest.mark.parametrize(("setting", "estimator"), CASES)
def test_without_scale_it_is_the_keras_layer(setting, estimator):
    layer, twin, x = make(setting, estimator, activation="relu")
    twin.activation = keras.activations.relu
    layer.kernel_untransformed_scale.assign(tf.fill(layer.kernel_loc.shape, -1e4))
    layer.bias_untransformed_scale.assign(tf.fill(layer.bias_loc.shape, -1e4))
    for training in (False, True):
        np.testing.assert_array_equal(layer(x, training=training), twin(x))


@pytest.mark.parametrize(("setting", "estimator"), CASES)
def test_gradients_against_finite_differences(setting, estimator):
    """Gradients of a loss plus the weighted KL match finite differences at fixed noise."""
    keras.config.set_floatx("float64")
    try:
        layer, _, x = make(setting, estimator, activation="tanh", dtype="float64")
    finally:
        keras.config.set_floatx("float32")
    layer.kl_weight.assign(0.5)
    x = tf.cast(x, "float64")
    state = layer.seed_generator.state.numpy()

    def loss():
        layer.seed_generator.state.assign(state)
        outputs = layer(x, training=True)
        # Recompute the KL in float64: the layer's float32 KL is too coarse for differences.
        weights = layer.random_kernel, layer.random_bias
        kl = sum(weight.kl_divergence(weight.draw([0, 0]), [0, 0]) for weight in weights)
        return tf.reduce_sum(tf.square(outputs - 0.3)) + 0.5 * kl, layer.losses[0]

    with tf.GradientTape(persistent=True) as tape:
        total, added = loss()
        kl = layer.kl_divergence()
    np.testing.assert_allclose(added, 0.5 * kl, rtol=1e-6)
    # All variables move together along one random direction, so each gradient counts.
    variables, step = layer.trainable_variables, 1e-6
    starts = [variable.numpy() for variable in variables]
    rng = np.random.default_rng(1)
    directions = [rng.normal(size=variable.shape) for variable in variables]
    values = []
    for sign in (1, -1):
        for variable, start, direction in zip(variables, starts, directions):
            variable.assign(start + sign * step * direction)
        values.append(float(loss()[0]))
    expected = (values[0] - values[1]) / (2 * step)
    slopes = [
        (gradient.numpy() * direction).sum()
        for gradient, direction in zip(tape.gradient(total, variables), directions)
    ]
    assert sum(slopes) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert np.abs(slopes).min() > 1e-3
    # The gradient of the added loss is that of the KL times the weight.
    for ours, whole in zip(tape.gradient(added, variables), tape.gradient(kl, variables)):
        np.testing.assert_allclose(ours, 0.5 * whole, rtol=1e-5, atol=1e-9)


@pytest.fixture
def _convolves_channels_first():
    """Skip a test if TensorFlow runs without oneDNN, where the Keras layer fails too."""
    try:
        keras.layers.Conv2D(1, 1, data_format="channels_first")(tf.zeros([1, 1, 2, 2]))
    except tf.errors.UnimplementedError:
        pytest.skip("TensorFlow has no convolution with channels first for this CPU")


@pytest.mark.usefixtures("_convolves_channels_first")
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_channels_first(estimator, training):
    """The outputs equal those of channels last on transposed images with the same noise."""
    make = getattr(layers, "Conv2D" + estimator)
    arguments = {"filters": 4, "kernel_size": 3, "seed": 0}
    last = make(**arguments)
    first = make(**arguments, data_format="channels_first")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    last.build(x.shape)
    first.build((2, 3, 8, 8))
    first.set_weights(last.get_weights())
    expected = last(x, training=training).numpy()
    actual = first(x.transpose(0, 3, 1, 2), training=training).numpy().transpose(0, 2, 3, 1)
    if estimator == "LocalReparameterization" and training:
        assert actual.shape == expected.shape  # noise is drawn in the order of the outputs
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_local_reparameterization_survives_dead_inputs():
    """Gradients stay finite if all inputs are zero, where the square root has none."""
    layer = layers.DenseLocalReparameterization(3)
    x = tf.zeros([2, 4])
    layer(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True))
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert all(np.isfinite(g).all() for g in gradients if g is not None)


def test_local_reparameterization_refuses_sums_of_inputs_alone():
    """An equation that sums the inputs is refused, because its variance needs cross terms."""
    arguments = {**einsum("abd,bc->ac", (2,), "c"), "name": "sums"}
    with pytest.raises(ValueError, match=r"'sums' that sums over axes of the kernel only.*'d'"):
        layers.EinsumDenseLocalReparameterization(**arguments)
    assert layers.EinsumDenseFlipout(**arguments)(np.ones((2, 3, 4)), training=True).shape == (2, 2)


def test_every_variational_layer_is_covered():
    covered = {setting.split(",")[0] + estimator for setting, estimator in CASES}
    assert covered == {name.split(",")[0] for name in VARIATIONAL}


@pytest.mark.parametrize(("setting", "estimator"), CASES)
def test_integer_inputs_do_not_truncate_kernels(setting, estimator):
    layer, _, x = make(setting, estimator)
    state = layer.seed_generator.state.numpy()
    integers = (10 * np.abs(x)).astype("uint8")
    for training in (False, True):
        outputs = []
        for dtype in ("int32", "float32", "uint8"):
            layer.seed_generator.state.assign(state)
            outputs.append(layer(integers.astype(dtype), training=training))
        assert outputs[0].dtype == "float32"
        assert np.std(outputs[1]) > 0.1
        for each in outputs[::2]:
            np.testing.assert_array_equal(each, outputs[1])


def test_local_reparameterization_squares_in_single_precision():
    """Squares of scales are computed in float32; in float16, (1e-4)^2 would be rounded to 0."""
    layer = layers.DenseLocalReparameterization(2000, use_bias=False, seed=0, dtype="mixed_float16")
    layer.build((None, 100))
    layer.kernel_loc.assign(tf.zeros(layer.kernel_loc.shape))
    layer.kernel_untransformed_scale.assign(tf.fill(layer.kernel_loc.shape, from_scale(1e-4)))
    outputs = np.asarray(layer(np.ones((1, 100)), training=True), "float64")
    z = (outputs.std() / 1e-3 - 1) / np.sqrt(1 / 2 / outputs.size)
    assert np.abs(z) < LARGEST_Z
