"""Gal's Bayesian convolutional network."""

import keras

from tfp_bayes.models.layer_factory import LayerFactory
from tfp_bayes.models.network import Network, check_image, initializers


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianCNN(Network):
    """The small Bayesian CNN of deep Bayesian active learning, for images.

    conv(32, 4x4) - relu - conv(32, 4x4) - relu - max pool 2 - dropout - dense 128 - relu -
    dropout - dense softmax. The model divides pixels by `max_pixel` itself, so it takes images as
    they are stored, and so does what is exported.

    Args:
        input_shape: (H, W, C), channels last.
        num_classes: K.
        inference: "mc_dropout"; "flipout", "local_reparameterization" or "reparameterization",
            which make every kernel random and need no dropout; or "deterministic", the twin with
            ordinary dropout, off at inference: the same network without uncertainty.
        dropout_rates: Rates after the pooling and after the dense layer.
        **kwargs: prior_scale, kernel_prior, max_pixel, num_samples, seed and name, see `Network`.

    Raises:
        ValueError: If `inference` is unknown or the images are too small.

    Reference:
        Gal, Islam and Ghahramani 2017, "Deep Bayesian Active Learning with Image Data", section
        5.1, arXiv:1703.02910.

    Example:

    >>> model = BayesianCNN(input_shape=(28, 28, 1), seed=0)
    >>> p = model.predict_uncertainty(np.zeros((2, 28, 28, 1)), num_samples=10, seed=0)
    >>> p.mean.shape, p.predictive_entropy.shape
    ((2, 10), (2,))
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (28, 28, 1),
        num_classes: int = 10,
        *,
        inference: str = "mc_dropout",
        dropout_rates: tuple[float, float] = (0.25, 0.5),
        **kwargs,
    ):
        check_image(input_shape, smallest=8)
        super().__init__(
            input_shape,
            num_classes,
            inference=inference,
            dropout_rates=tuple(dropout_rates),
            **kwargs,
        )

    @staticmethod
    def make_outputs(
        x: keras.KerasTensor,
        num_classes: int,
        factory: LayerFactory,
        seed: int | None,
        dropout_rates: tuple[float, float] = (0.25, 0.5),
    ) -> keras.KerasTensor:
        """Builds the network, see `Network.make_outputs`."""
        init = initializers(4, seed)
        seeds = [None, None] if seed is None else [seed + 4, seed + 5]
        x = factory.conv_2d(32, 4, activation="relu", kernel_initializer=init[0], name="conv_1")(x)
        x = factory.conv_2d(32, 4, activation="relu", kernel_initializer=init[1], name="conv_2")(x)
        x = keras.layers.MaxPooling2D(2, name="pool")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        x = factory.dropout(dropout_rates[0], seed=seeds[0], name="dropout_1")(x)
        x = factory.dense(128, activation="relu", kernel_initializer=init[2], name="dense")(x)
        x = factory.dropout(dropout_rates[1], seed=seeds[1], name="dropout_2")(x)
        return factory.dense(
            num_classes, activation="softmax", kernel_initializer=init[3], name="probabilities"
        )(x)
