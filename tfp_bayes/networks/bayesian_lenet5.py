"""The Bayesian LeNet-5."""

import keras

from tfp_bayes.models.layer_factory import LayerFactory
from tfp_bayes.networks.network import Network, check_image, initializers


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianLeNet5(Network):
    """LeNet-5 with relu and max pooling (61,000 kernel weights), common in published benchmarks.

    conv(6, 5x5, same) - pool 2 - conv(16, 5x5) - pool 2 - dense 120 - dense 84 - dense softmax,
    with relu in between, and dropout after the hidden dense layers if the inference uses dropout.

    Args:
        input_shape: Shape (H, W, C) of an image, channels last.
        num_classes: Number of classes K.
        inference: As in `BayesianCNN`.
        dropout_rate: Rate after the hidden dense layers, for dropout and "deterministic".
        **kwargs: prior_scale, kernel_prior, max_pixel, num_samples, seed and name, see `Network`.

    Raises:
        ValueError: If `inference` is unknown or the images are too small.

    Reference:
        LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section II.

    Example:

    >>> model = BayesianLeNet5(inference="flipout", seed=0)
    >>> model.predict_uncertainty(np.zeros((2, 28, 28, 1)), num_samples=10, seed=0).mean.shape
    (2, 10)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (28, 28, 1),
        num_classes: int = 10,
        *,
        inference: str = "mc_dropout",
        dropout_rate: float = 0.5,
        **kwargs,
    ):
        check_image(input_shape, smallest=14)
        super().__init__(
            input_shape, num_classes, inference=inference, dropout_rate=dropout_rate, **kwargs
        )

    @staticmethod
    def make_outputs(
        x: keras.KerasTensor,
        num_classes: int,
        factory: LayerFactory,
        seed: int | None,
        dropout_rate: float = 0.5,
    ) -> keras.KerasTensor:
        """Build the network, see `Network.make_outputs`."""
        init = initializers(5, seed)
        relu = {"activation": "relu"}
        x = factory.conv_2d(
            6, 5, padding="same", kernel_initializer=init[0], name="conv_1", **relu
        )(x)
        x = keras.layers.MaxPooling2D(2, name="pool_1")(x)
        x = factory.conv_2d(16, 5, kernel_initializer=init[1], name="conv_2", **relu)(x)
        x = keras.layers.MaxPooling2D(2, name="pool_2")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        for i, units in enumerate((120, 84)):
            x = factory.dense(units, kernel_initializer=init[2 + i], name=f"dense_{i + 1}", **relu)(
                x
            )
            x = factory.dropout(dropout_rate, seed=seed, name=f"dropout_{i + 1}")(x)
        return factory.dense(
            num_classes, activation="softmax", kernel_initializer=init[4], name="probabilities"
        )(x)
