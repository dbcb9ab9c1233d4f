"""The Bayesian ResNet-20."""

import keras

from tfp_bayes.models.layer_factory import LayerFactory
from tfp_bayes.networks.network import Network, check_image, initializers


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianResNet20(Network):
    """A residual network with 20 layers (270,000 kernel weights) for images of CIFAR's size.

    A 3x3 convolution, three stages of three residual blocks with two 3x3 convolutions each, of 16,
    32 and 64 channels, global average pooling and a softmax. Batch normalization stays a plain
    layer, with fixed statistics at inference. If the inference uses dropout, it follows each
    residual block.

    Args:
        input_shape: Shape (H, W, C) of an image, channels last.
        num_classes: Number of classes K.
        inference: As in `BayesianCNN`.
        dropout_rate: Rate after every residual block, for dropout and "deterministic".
            "concrete_dropout" drops whole feature maps.
        **kwargs: prior_scale, kernel_prior, max_pixel, num_samples, seed and name, see `Network`.

    Raises:
        ValueError: If `inference` is unknown or the images are too small.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2,
        arXiv:1512.03385.

    Example:

    >>> model = BayesianResNet20(inference="flipout", seed=0)
    >>> model.predict_uncertainty(np.zeros((2, 32, 32, 3)), num_samples=2, seed=0).mean.shape
    (2, 10)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
        *,
        inference: str = "mc_dropout",
        dropout_rate: float = 0.1,
        **kwargs,
    ):
        check_image(input_shape, smallest=8)
        super().__init__(
            input_shape, num_classes, inference=inference, dropout_rate=dropout_rate, **kwargs
        )

    @staticmethod
    def make_outputs(
        x: keras.KerasTensor,
        num_classes: int,
        factory: LayerFactory,
        seed: int | None,
        dropout_rate: float = 0.1,
    ) -> keras.KerasTensor:
        """Build the network, see `Network.make_outputs`."""
        layers = keras.layers
        of_maps = factory.inference == "concrete_dropout"  # its rates apply to rows of a kernel
        init = iter(initializers(22, seed, "HeNormal"))

        def conv(x, filters, size=3, strides=1):
            layer = factory.conv_2d(
                filters,
                size,
                strides,
                padding="same",
                use_bias=False,  # batch normalization adds a bias
                kernel_initializer=next(init),
            )
            return layers.BatchNormalization()(layer(x))

        x = layers.ReLU()(conv(x, 16))
        for stage, filters in enumerate((16, 32, 64)):
            for block in range(3):
                strides = 2 if stage > 0 and block == 0 else 1
                y = layers.ReLU()(conv(x, filters, strides=strides))
                y = conv(y, filters)
                if strides > 1:
                    x = conv(x, filters, size=1, strides=2)
                x = layers.ReLU()(layers.Add()([x, y]))
                x = factory.dropout(dropout_rate, seed=seed, whole_maps=of_maps)(x)
        x = layers.GlobalAveragePooling2D()(x)
        return factory.dense(
            num_classes, activation="softmax", kernel_initializer=next(init), name="probabilities"
        )(x)
