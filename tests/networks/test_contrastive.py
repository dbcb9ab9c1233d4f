"""Tests of features learned without labels: loss, distortions and trained features."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist

from tfp_bayes import datasets
from tfp_bayes.layers import MCDropout
from tfp_bayes.networks import RandomDistortion, contrastive_features, nt_xent, small_features

RNG = np.random.default_rng(0)


def slow_nt_xent(views, others, temperature):
    """The published formula, pair by pair."""
    z = [each / np.sqrt(each @ each) for each in (*views, *others)]
    size, losses = len(views), []
    for i in range(2 * size):
        partner = (i + size) % (2 * size)
        total = sum(np.exp(z[i] @ z[j] / temperature) for j in range(2 * size) if j != i)
        losses.append(-np.log(np.exp(z[i] @ z[partner] / temperature) / total))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_its_gradient(temperature):
    z = RNG.normal(size=(2, 5, 3))
    one, other = tf.Variable(z[0], dtype="float32"), tf.Variable(z[1], dtype="float32")
    with tf.GradientTape() as tape:
        loss = nt_xent(one, other, temperature)
    assert float(loss) == pytest.approx(slow_nt_xent(*z, temperature), rel=1e-5)
    gradients = np.stack([g.numpy() for g in tape.gradient(loss, [one, other])])
    expected = np.zeros_like(z)
    for place in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[place] = 1e-5
        rise = slow_nt_xent(*(z + step), temperature) - slow_nt_xent(*(z - step), temperature)
        expected[place] = rise / 2e-5
    np.testing.assert_allclose(gradients, expected, atol=2e-5)


def test_loss_of_extremes():
    alike = np.ones((4, 3), "float16")
    # Chance level, also in half precision.
    assert float(nt_xent(alike, alike)) == pytest.approx(np.log(7))
    apart = np.eye(4, dtype="float32")
    assert float(nt_xent(apart, 3 * apart, 0.01)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="Expected a positive, finite number for `temperature`"):
        nt_xent(apart, apart, 0.0)
    with pytest.raises(ValueError, match=r"`views` of shape \(4, 4\), `others` of shape \(2, 4\)"):
        nt_xent(apart, apart[:2])


def affine_maps(count=400, side=41, **arguments):
    """Return the affine maps (N, 2, 3) of a layer, read from images of pixel coordinates."""
    none = {"rotation": 0, "zoom": 1, "stretch": 1, "shear": 0, "shift": 0}
    layer = RandomDistortion(**{**none, **arguments}, seed=0)
    steps = np.arange(side, dtype="float32") - side // 2
    image = np.stack(np.meshgrid(steps, steps), axis=-1)
    seen = layer(np.repeat(image[None], count, axis=0), training=True).numpy()
    inner = slice(side // 2 - 5, side // 2 + 6)  # its sources lie within the image
    places = np.concatenate([image, np.ones((side, side, 1))], axis=-1)[inner, inner]
    found = [
        np.linalg.lstsq(places.reshape(-1, 3), s[inner, inner].reshape(-1, 2))[0].T for s in seen
    ]
    return np.stack(found)


def test_each_distortion_is_what_it_says():
    def uniform(values, largest):
        assert 0.97 * largest < np.abs(values).max() <= largest * 1.001
        assert abs(values.mean()) < 5.5 * largest / np.sqrt(3 * len(values))
        assert values.var() == pytest.approx(largest**2 / 3, rel=0.25)

    np.testing.assert_allclose(affine_maps(3), np.repeat(np.eye(2, 3)[None], 3, 0), atol=1e-4)
    turned = affine_maps(rotation=30)
    np.testing.assert_allclose(np.linalg.det(turned[:, :, :2]), 1, atol=1e-3)
    np.testing.assert_allclose(turned[:, 0, 0], turned[:, 1, 1], atol=1e-4)
    uniform(np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0])), 30)
    zoomed = affine_maps(zoom=1.5)
    np.testing.assert_allclose(zoomed[:, 0, 0], zoomed[:, 1, 1], atol=1e-4)
    uniform(np.log(zoomed[:, 0, 0]), np.log(1.5))
    stretched = affine_maps(stretch=1.4)
    uniform(np.log(stretched[:, 0, 0] / stretched[:, 1, 1]), np.log(1.4))
    np.testing.assert_allclose(np.linalg.det(stretched[:, :, :2]), 1, atol=1e-3)
    uniform(affine_maps(shear=0.3)[:, 0, 1], 0.3)
    moved = affine_maps(shift=0.1)
    uniform(moved[:, 0, 2], 4.1)
    uniform(moved[:, 1, 2], 4.1)
    assert abs(np.corrcoef(moved[:, :, 2].T)[0, 1]) < 0.28
    mirrored = affine_maps(flip=True)[:, 0, 0]
    np.testing.assert_allclose(np.abs(mirrored), 1, atol=1e-4)
    assert abs((mirrored > 0).mean() - 0.5) < 5.5 * 0.5 / 20
    both = affine_maps(rotation=30, zoom=1.5, stretch=1.4, shear=0.3, flip=True)
    assert np.linalg.svd(both[:, :, :2], compute_uv=False).min() > 1 / (1.5 * 1.4**0.5 * 1.4)


def test_distortion_of_values_and_its_file():
    x = RNG.uniform(size=(300, 4, 4, 3)).astype("float32")
    none = {"rotation": 0, "zoom": 1, "stretch": 1, "shear": 0, "shift": 0}
    layer = RandomDistortion(**none, contrast=2.0, seed=0)
    np.testing.assert_array_equal(layer(x), x)
    faded = layer(x, training=True).numpy()
    np.testing.assert_allclose(faded.mean((1, 2, 3)), x.mean((1, 2, 3)), rtol=1e-4)
    factors = np.log(faded.std((1, 2, 3)) / x.std((1, 2, 3)))
    assert -0.694 < factors.min() < -0.6
    assert 0.6 < factors.max() < 0.694
    lit = RandomDistortion(**none, brightness=0.5, seed=0)(x, training=True).numpy() - x
    added = lit[:, 0, 0, 0] / x.max((1, 2, 3))
    np.testing.assert_allclose(lit, np.broadcast_to(lit[:, :1, :1, :1], lit.shape), atol=1e-5)
    assert added.min() < -0.45
    assert added.max() > 0.45
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    assert layer(x.astype("uint8"), training=True).dtype == "float32"
    for wrong in ({"zoom": 0.5}, {"shift": -1}, {"rotation": np.nan}, {"shear": True}):
        with pytest.raises(ValueError, match="Expected a number of at least"):
            RandomDistortion(**wrong)
    with pytest.raises(ValueError, match="Expected images"):
        RandomDistortion()(x[0])


@pytest.fixture(scope="module")
def digits():
    data = datasets.load("mnist")
    return data.x_train[:600], data.x_test[:300]


def tiny():
    init = [keras.initializers.HeNormal(i) for i in range(3)]
    conv = {"strides": 2, "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 5, **conv, kernel_initializer=init[0]),
            keras.layers.BatchNormalization(momentum=0.8),
            keras.layers.Conv2D(16, 3, **conv, kernel_initializer=init[1]),
            keras.layers.Flatten(),
            keras.layers.Dense(32, kernel_initializer=init[2]),
        ]
    )


def distortion(seed):
    return RandomDistortion(5, 1.1, 1.05, 0.1, 0.1, seed=seed)


def learned(x, steps=60, seed=0):
    return contrastive_features(
        x,
        features=tiny(),
        distortion=distortion(seed),
        steps=steps,
        batch_size=64,
        learning_rate=0.01,
        seed=seed,
        verbose=0,
    )


@pytest.fixture(scope="module")
def trained(digits):
    return learned(digits[0])


def test_features_bring_two_views_of_a_new_image_together(digits, trained):
    one, other = (distortion(seed)(digits[1], training=True).numpy() for seed in (5, 6))

    def nearer(embed):
        """Share of other images that are farther away than the other view of the same image."""
        distances = cdist(embed(one), embed(other), "cosine")
        return (distances > np.diag(distances)[:, None]).mean()

    assert nearer(trained.predict_on_batch) > 0.85  # measured: 0.91
    assert nearer(tiny().predict_on_batch) < 0.75  # measured: 0.68
    assert nearer(lambda images: images.reshape(300, -1)) < 0.75


def test_features_are_frozen_and_saved(digits, trained, tmp_path):
    x = digits[1][:9]
    assert not trained.trainable_variables
    statistics = trained.layers[2]
    assert not np.allclose(statistics.moving_mean, 0)
    trained.save(tmp_path / "features.keras")
    loaded = keras.models.load_model(tmp_path / "features.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(x), trained(x))


def test_same_seed_same_features_and_no_label_is_read(digits):
    x = digits[0][:100]
    read_by_nobody = np.full(len(x), np.nan)
    labelled = tf.data.Dataset.from_tensor_slices((x, read_by_nobody))
    one, other = learned(x, steps=2), learned(labelled, steps=2)
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(one.weights[0], tiny().weights[0])


def test_default_network_follows_its_seed():
    one, again, other = (small_features((8, 8, 1), 4, seed=seed) for seed in (0, 0, 1))
    for a, b in zip(one.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.weights[0].numpy() != other.weights[0].numpy()).all()


def test_few_odd_images_in_half_precision():
    x = RNG.integers(0, 256, (3, 9, 11, 3)).astype("uint8")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        features = contrastive_features(x, steps=1, seed=0, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    phi = np.asarray(features(x), "float32")
    assert phi.shape == (3, 256)
    assert np.isfinite(phi).all()


def test_what_cannot_be_learned_from_is_refused():
    x = np.zeros((4, 28, 28, 1), "float32")
    with pytest.raises(ValueError, match="Expected at least two images"):
        contrastive_features(x[:1])
    with pytest.raises(ValueError, match="finite inputs"):
        contrastive_features(np.where(np.arange(4)[:, None, None, None] == 2, np.nan, x))
    with pytest.raises(ValueError, match=r"Expected .height, width, channels"):
        contrastive_features(x[..., 0])
    inputs = keras.Input((28, 28, 1))
    random = keras.Model(inputs, MCDropout(0.5)(keras.layers.Flatten()(inputs)))
    for features in (random, keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs)), "resnet"):
        with pytest.raises(ValueError, match="Expected a built Keras model with one output"):
            contrastive_features(x, features=features)
    with pytest.raises(ValueError, match=r"value 1\. Hint.*contrastive_features.max_pixel=1"):
        contrastive_features(x + 1)
    for wrong in ({"steps": 0}, {"batch_size": 1}, {"temperature": 0}, {"learning_rate": -1}):
        with pytest.raises(ValueError, match="Expected"):
            contrastive_features(x, **wrong)
