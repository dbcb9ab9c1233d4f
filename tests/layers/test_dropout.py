"""Tests of the masks of Monte Carlo dropout against their Bernoulli distribution."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import Predictor, layers

RATES = [0.1, 0.25, 0.5, 0.9]
NUM_UNITS = 20_000


def z_scores(values, rate):
    """Standardize sample mean and variance of x = m / (1 - rate), m ~ Bernoulli(1 - rate)."""
    n, keep = values.size, 1 - rate
    variance = rate / keep
    fourth = keep * (1 / keep - 1) ** 4 + rate  # E (x - 1)^4
    mean_z = (values.mean() - 1) / np.sqrt(variance / n)
    variance_z = ((values - 1) ** 2).mean() - variance
    spread = np.sqrt((fourth - variance**2) / n)
    # At rate 0.5 the squared deviation is constant, so the variance must be exact.
    return mean_z, variance_z / spread if spread > 1e-9 else variance_z * 1e9


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_mean_and_variance(rate, training, dtype):
    layer = layers.MCDropout(rate, seed=0, dtype=dtype)
    y = layer(np.ones((1, NUM_UNITS), "float32"), training=training)
    # bfloat16 rounds the value of kept units, so compare only how often units are kept.
    values = np.where(np.asarray(y, "float64") > 0, 1 / (1 - rate), 0.0)
    np.testing.assert_allclose(np.asarray(y, "float64"), values, rtol=0.01)
    mean_z, variance_z = z_scores(values, rate)
    assert abs(mean_z) < 4
    assert abs(variance_z) < 4


def test_rate_zero_is_the_identity():
    x = np.array([[1.0, -2.0, np.inf]], "float32")
    for training in (False, True):
        np.testing.assert_array_equal(layers.MCDropout(0)(x, training=training), x)


def test_examples_are_independent_in_training():
    y = layers.MCDropout(0.5, seed=1)(np.ones((2, NUM_UNITS)), training=True).numpy() - 1
    assert abs((y[0] * y[1]).mean()) * np.sqrt(NUM_UNITS) < 4


def test_replicas_have_noise_of_their_own_in_training_only(two_replicas):
    with two_replicas.scope():
        layer = layers.MCDropout(0.5, seed=1)
    x = np.ones((1, NUM_UNITS), "float32")

    @tf.function
    def replicas(training):
        values = two_replicas.run(lambda: layer(x, training=training))
        return two_replicas.experimental_local_results(values)

    a, b = (y.numpy()[0] - 1 for y in replicas(True))
    assert abs((a * b).mean()) * np.sqrt(NUM_UNITS) < 4
    a, b = replicas(False)
    np.testing.assert_array_equal(a, b)


def test_mean_over_masks_is_the_input():
    model = keras.Sequential([keras.Input((4,)), layers.MCDropout(0.3)])
    x = np.array([[0.1, 0.2, 0.3, 0.4]], "float32")
    samples = Predictor(model, likelihood="bernoulli").sample(x, 4000, seed=0)[:, 0]
    spread = x[0] * np.sqrt(0.3 / 0.7 / 4000)
    assert np.all(np.abs(samples.mean(0) - x[0]) < 4 * spread)
    np.testing.assert_allclose(samples.var(0), x[0] ** 2 * 0.3 / 0.7, rtol=0.1)


@pytest.mark.parametrize(
    ("layer", "shape", "space", "channels"),
    [
        (layers.MCSpatialDropout1D, (2, 7, 500), (1,), 2),
        (layers.MCSpatialDropout2D, (2, 3, 4, 500), (1, 2), 3),
        (layers.MCSpatialDropout3D, (2, 3, 2, 2, 500), (1, 2, 3), 4),
    ],
)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_spatial_masks_are_constant_over_space(layer, shape, space, channels, data_format):
    x = np.ones(shape, "float32")
    if data_format == "channels_first":
        x = np.moveaxis(x, channels, 1)
    y = layer(0.5, data_format, seed=0)(x, training=True).numpy()
    if data_format == "channels_first":
        y = np.moveaxis(y, 1, channels)
    assert np.ptp(y, axis=space).max() == 0
    maps = y[(slice(None), *[0] * len(space))]  # (2, 500)
    mean_z, _ = z_scores(maps, 0.5)
    assert abs(mean_z) < 4
    assert not np.array_equal(maps[0], maps[1])


def test_spatial_layers_refuse_another_rank():
    with pytest.raises(ValueError, match="ndim=4"):
        layers.MCSpatialDropout2D(0.5)(np.ones((2, 3, 4)))


def test_the_rate_is_fixed_once_the_layer_was_called():
    layer = layers.MCDropout(0.5)
    layer.rate = 0.2
    layer(np.ones((1, 2)))
    layer.rate = 0.2
    with pytest.raises(ValueError, match=r"stay at 0\.2 once .* Received: rate=0\.3"):
        layer.rate = 0.3
    assert layer.rate == 0.2


def test_noise_shape_of_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"rank 2.*noise_shape=\(None, 1, 4\)"):
        layers.MCDropout(0.5, noise_shape=(None, 1, 4))(np.ones((2, 4)))
