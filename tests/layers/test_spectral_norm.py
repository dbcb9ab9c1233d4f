"""Tests of norm bounds against singular values of kernels and of explicit convolution matrices."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import vectors

from tfp_bayes.layers import SpectralNormConstraint

CONSTRAINT = SpectralNormConstraint(0.9)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (50, 50), (1, 4), (4, 1)])
def test_matrices(shape):
    w = RNG.normal(size=shape).astype("float32")
    exact, found = np.linalg.norm(w, 2), float(CONSTRAINT.norm_bound(w))
    assert exact * (1 - 1e-5) <= found <= exact * min(shape) ** (1 / 512) * (1 + 1e-5)


def test_equal_singular_values_are_the_worst_case():
    assert float(CONSTRAINT.norm_bound(np.eye(64))) == pytest.approx(64 ** (1 / 512), rel=1e-5)


def convolution(kernel, strides, padding, size=5):
    """Return the matrix of a convolution of size x size images."""
    count = size * size * kernel.shape[2]
    images = np.eye(count, dtype="float32").reshape(count, size, size, -1)
    return tf.nn.conv2d(images, kernel, strides, padding).numpy().reshape(count, -1)


@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (3, 3, 4, 2), (2, 3, 3, 3), (1, 1, 4, 3)])
@pytest.mark.parametrize("positive", [True, False])
def test_convolutions(shape, positive):
    kernel = RNG.normal(size=shape).astype("float32")
    kernel = np.abs(kernel) if positive else kernel  # positive ones are large at low frequencies
    found = float(CONSTRAINT.norm_bound(kernel))
    norms = [
        np.linalg.norm(convolution(kernel, strides, padding), 2)
        for strides, padding in ((1, "SAME"), (1, "VALID"), (2, "SAME"))
    ]
    assert max(norms) <= found * (1 + 1e-5)
    assert found < 2.5 * max(norms)
    matrices = kernel.reshape(-1, shape[3]), kernel.swapaxes(2, 3).reshape(-1, shape[2])
    expected = np.sqrt(shape[0] * shape[1]) * min(np.linalg.norm(m, 2) for m in matrices)
    assert expected * (1 - 1e-5) <= found <= expected * 4 ** (1 / 512) * (1 + 1e-5)
    if shape[:2] == (1, 1):
        assert found < 1.01 * max(norms)


def test_small_kernels_stay_and_large_ones_are_scaled():
    small, zero = 0.1 * np.eye(5, dtype="float32"), np.zeros((3, 3, 2, 2), "float32")
    np.testing.assert_array_equal(CONSTRAINT(small), small)
    np.testing.assert_array_equal(CONSTRAINT(zero), zero)
    tiny = 1e-23 * np.eye(5, dtype="float32")  # as after weight decay; squares are 0
    np.testing.assert_array_equal(CONSTRAINT(tiny), tiny)
    large = RNG.normal(size=(6, 5))
    ratio = CONSTRAINT(large) / large
    np.testing.assert_allclose(ratio, ratio[0, 0])
    assert 0.98 * 0.9 < np.linalg.norm(CONSTRAINT(large), 2) <= 0.9


def test_training_keeps_to_it_after_saving_too(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(3, 3, kernel_constraint=CONSTRAINT),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax", kernel_constraint=SpectralNormConstraint(0.5)),
        ]
    )
    model.compile(keras.optimizers.SGD(5.0), "sparse_categorical_crossentropy", jit_compile=False)
    x, y = vectors(24, 36).reshape(24, 6, 6, 1), np.arange(24) % 3
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    loaded.fit(x, y, verbose=0)
    for each in (model, loaded):
        kernel = each.layers[0].kernel.numpy()
        assert np.linalg.norm(convolution(kernel, 1, "SAME", 6), 2) <= 0.9
        norm = np.linalg.norm(each.layers[-1].kernel, 2)
        assert 0.49 < norm <= 0.5 * (1 + 1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"bound=0\.0"):
        SpectralNormConstraint(0.0)
    with pytest.raises(ValueError, match=r"shape \(3,\).*not bias_constraint"):
        CONSTRAINT(np.ones(3))
