"""Self-supervised features, learned from images without labels (SimCLR)."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.networks.network import check_image, check_range, initializers
from tfp_bayes.networks.random_distortion import RandomDistortion

if TYPE_CHECKING:
    from tfp_bayes.active.rows import Rows

NUM_PROJECTED = 64  # dimension of the projections that the loss compares, only for training


def nt_xent(views: tf.Tensor, others: tf.Tensor, temperature: float = 0.2) -> tf.Tensor:
    """Contrastive loss: how hard it is to identify the other view of an image within a batch.

    Let z_1 ... z_2B be the projections of all views, normalized to length 1, and z_p(i) the other
    view of the image of z_i. The loss is the mean over i of -log(exp(z_i z_p(i) / tau) /
    sum_(j != i) exp(z_i z_j / tau)). Its minimum is 0, and chance is log(2 B - 1).

    Args:
        views: Projections (B, D) of one view of each image, with lengths other than 0.
        others: Projections (B, D) of another view of each image.
        temperature: Temperature tau. The smaller it is, the more weight the most similar other
            images get.

    Returns:
        The loss in nats, a float32 scalar.

    Raises:
        ValueError: If `temperature` is not positive, or the shapes of `views` and `others` differ.

    Reference:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations"
        (SimCLR), equation 1, arXiv:2002.05709.

    Example:

    >>> apart = np.eye(2, dtype="float32")
    >>> alike, chance = (float(tfp_bayes.networks.nt_xent(apart, z)) for z in (apart, apart[::-1]))
    >>> round(alike, 3), round(chance, 3)
    (0.013, 5.013)
    """
    check_positive(temperature=temperature)
    views, others = tf.cast(views, "float32"), tf.cast(others, "float32")
    if not views.shape.is_compatible_with(others.shape):
        raise ValueError(
            "Expected two views (B, D) of each image. Received: `views` of shape "
            f"{tuple(views.shape)}, `others` of shape {tuple(others.shape)}. "
            "Hint: row i of both belongs to the same image."
        )
    z = tf.concat([views, others], axis=0)
    z = tf.math.l2_normalize(z, axis=1)
    similarity = tf.matmul(z, z, transpose_b=True) / temperature
    similarity = tf.linalg.set_diag(similarity, tf.fill(tf.shape(z)[:1], similarity.dtype.min))
    half = tf.shape(z)[0] // 2
    partner = tf.roll(tf.range(2 * half), half, axis=0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=partner, logits=similarity)
    return tf.reduce_mean(losses)


def contrastive_features(
    x: "np.ndarray | Rows | tf.data.Dataset | keras.utils.PyDataset",
    *,
    features: keras.Model | None = None,
    distortion: keras.layers.Layer | None = None,
    temperature: float = 0.2,
    steps: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    max_pixel: float = 255.0,
    seed: int | None = None,
    verbose: Any = "auto",
) -> keras.Model:
    """Train features that are similar for two distorted views of the same image (SimCLR).

    Use it when many images are unlabeled and no pretrained network suits them. For active
    learning, train the features on the whole pool first, then pass them to
    `BayesianBasisRegression`, which keeps them frozen. Labels are not needed, and labels of a
    data set are ignored.

    Args:
        x: Images (N, H, W, C): an array, or a source that does not fit into memory, see
            `ActiveLearner`.
        features: Keras model from images to features (N, F), which is trained in place. None
            creates `small_features(x.shape[1:], max_pixel, seed)` with F = 256.
        distortion: Keras layer that creates views when called with `training=True`. None is
            `RandomDistortion()`, which suits digits and clothes. Features become invariant to the
            distortion, so it must not change the class of an image.
        temperature: Temperature of the loss, see `nt_xent`.
        steps: Number of optimizer steps. 1,500 steps with 256 images of 28 x 28 pixels take about
            four minutes on one core.
        batch_size: Number of images per step, at most the number of images. Larger is better.
        learning_rate: Initial learning rate of Adam, which decays to 0 along a cosine.
        max_pixel: Largest value of a pixel: 255 for images as stored, 1 for scaled images. Not
            used if `features` is given.
        seed: Integer or None. Equal seeds give the same features, bit for bit on a CPU.
        verbose: As in `keras.Model.fit`.

    Returns:
        The features, a frozen Keras model (`trainable` is False).

    Raises:
        ValueError: If there are fewer than two images, an image is not finite, `features` is
            random or does not return (N, F), the images have a much smaller range than
            `max_pixel`, or a number is out of range.

    Reference:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations"
        (SimCLR), algorithm 1, arXiv:2002.05709.

    Example:

    >>> x = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1)).astype("uint8")
    >>> features = tfp_bayes.networks.contrastive_features(x, steps=2, seed=0, verbose=0)
    >>> model = tfp_bayes.BayesianBasisRegression(features, 10)
    >>> model.condition(x[:20], np.arange(20) % 10)
    >>> model.predict_uncertainty(x).mean.shape
    (50, 10)
    """
    from tfp_bayes.active.rows import as_rows, check_finite, load_finite  # `active` loads late

    check_integers(1, steps=steps)
    check_integers(2, batch_size=batch_size)
    check_positive(temperature=temperature, learning_rate=learning_rate, max_pixel=max_pixel)
    rows = as_rows(x)
    if len(rows) < 2:
        raise ValueError(
            f"Expected at least two images for `x`. Received: {len(rows)}. "
            "Hint: pass the whole pool."
        )
    check_finite(rows, np.array([], "int64"))
    load = functools.partial(load_finite, rows)
    if features is None:
        images = load(np.arange(min(len(rows), batch_size)))
        check_range(images, max_pixel, "contrastive_features")
        features = small_features(images.shape[1:], max_pixel=max_pixel, seed=seed)
    _check_trainable_features(features)
    features.trainable = True
    batches = _Batches(load, len(rows), batch_size, steps, seed)
    model = _Contrast(features, distortion or RandomDistortion(seed=seed), temperature, seed)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule))
    model.fit(batches, shuffle=False, verbose=verbose)
    features.trainable = False
    return features


def small_features(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_features: int = 256,
    *,
    max_pixel: float = 255.0,
    seed: int | None = None,
) -> keras.Model:
    """Build an untrained network from small images to features, small enough to train on a CPU.

    conv(32, 5x5) - conv(64, 3x3) - conv(128, 3x3) - dense, each followed by batch normalization and
    relu. The convolutions have stride 2.

    Args:
        input_shape: Shape (H, W, C) of an image, channels last.
        num_features: Number of features F.
        max_pixel: Largest value of a pixel, by which the network divides its inputs.
        seed: Seed of the initial weights, an integer or None.

    Returns:
        A Keras model from images (N, H, W, C) to features (N, F).

    Raises:
        ValueError: If the images are too small or a number is out of range.

    Example:

    >>> tfp_bayes.networks.small_features((32, 32, 3)).output_shape
    (None, 256)
    """
    check_image(input_shape, smallest=8)
    check_integers(1, num_features=num_features)
    check_positive(max_pixel=max_pixel)
    init = initializers(4, seed, "HeNormal")
    inputs = keras.Input(input_shape, name="images")
    x = keras.layers.Rescaling(1 / max_pixel, name="rescale")(inputs)
    for i, (filters, size) in enumerate(((32, 5), (64, 3), (128, 3))):
        x = keras.layers.Conv2D(
            filters,
            size,
            strides=2,
            padding="same",
            use_bias=False,
            kernel_initializer=init[i],
            name=f"conv_{i + 1}",
        )(x)
        x = keras.layers.BatchNormalization(name=f"normalize_{i + 1}")(x)
        x = keras.layers.ReLU(name=f"relu_{i + 1}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(num_features, use_bias=False, kernel_initializer=init[3], name="dense")(
        x
    )
    x = keras.layers.BatchNormalization(name="normalize_4")(x)
    return keras.Model(inputs, keras.layers.ReLU(name="relu_4")(x), name="features")


class _Contrast(keras.Model):
    """The model that is trained: two views of each image, their features and projections."""

    def __init__(
        self,
        features: keras.Model,
        distortion: keras.layers.Layer,
        temperature: float,
        seed: int | None,
    ):
        super().__init__(name="contrast")
        width = features.output_shape[-1]
        init = initializers(2, None if seed is None else seed + 100)
        self.features = features
        self.distortion = distortion
        self.temperature = temperature
        self.projection = keras.Sequential(
            [
                keras.layers.Dense(width, use_bias=False, kernel_initializer=init[0]),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dense(NUM_PROJECTED, kernel_initializer=init[1], dtype="float32"),
            ]
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return projections (2 B, D): first those of one view of each image, then of another."""
        views = self.distortion(tf.concat([inputs, inputs], axis=0), training=training)
        return self.projection(self.features(views, training=training), training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the contrastive loss plus the losses that layers of the features add."""
        del x, y, sample_weight, training
        loss = nt_xent(*tf.split(y_pred, 2), self.temperature)
        return loss + tf.add_n(self.losses) if self.losses else loss


class _Batches(keras.utils.PyDataset):
    """Batches of images without labels, shuffled again for each pass over the data."""

    def __init__(
        self,
        load: Callable[[np.ndarray], np.ndarray],
        size: int,
        batch_size: int,
        steps: int,
        seed: int | None,
    ):
        super().__init__()
        self._load = load
        self._size = size
        self._batch_size = min(batch_size, size)
        self._steps = steps
        self._entropy: Any = np.random.SeedSequence(seed).entropy
        self._order: tuple[int, np.ndarray] = (-1, np.array([], "int64"))

    @property
    def num_batches(self) -> int:
        """Return the number of steps, which may span several passes over the data."""
        return self._steps

    def __getitem__(self, step: int):
        """Return the images (B, H, W, C) of a step."""
        epoch, place = divmod(step, self._size // self._batch_size)
        if epoch != self._order[0]:
            generator = np.random.default_rng([self._entropy, epoch])
            self._order = epoch, generator.permutation(self._size)
        start = place * self._batch_size
        return (self._load(np.sort(self._order[1][start : start + self._batch_size])),)


def _check_trainable_features(features: keras.Model) -> None:
    """Raise ValueError unless a model returns features (N, F) without noise at inference."""
    shape = getattr(features, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or stochastic_layers(features):
        raise ValueError(
            "Expected a built Keras model with one output (N, F), without layers that are random "
            f"at inference, for `features`. Received: outputs of shape {shape}. "
            "Hint: end it in Flatten or global pooling; or use small_features()."
        )
