"""The Bayesian convolutional networks of deep Bayesian active learning."""

import keras

from tfp_bayes.models.layer_factory import LayerFactory
from tfp_bayes.networks.network import Network, check_image, initializers


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianCNN(Network):
    """The small Bayesian CNNs of deep Bayesian active learning, for images.

    - "gal": conv(32, 4x4) - relu - conv(32, 4x4) - relu - max pool 2 - dropout .25 - dense 128 -
      relu - dropout .5 - dense softmax.
    - "kirsch": conv(32, 5x5) - dropout of maps .5 - max pool 2 - relu - conv(64, 5x5) - dropout of
      maps .5 - max pool 2 - relu - dense 128 - dropout .5 - relu - dense softmax. Its uncertainty
      is larger, so BALD gains more from it.

    The model itself divides pixels by `max_pixel`. The model and its exports therefore take images
    as they are stored.

    Args:
        input_shape: Shape (H, W, C) of an image, channels last.
        num_classes: Number of classes K.
        architecture: "gal" or "kirsch".
        inference: "mc_dropout"; "concrete_dropout" with learned rates; "flipout",
            "local_reparameterization" or "reparameterization", with random kernels and no dropout;
            or "deterministic", the same network with dropout that is off at inference, without
            uncertainty.
        dropout_rates: Dropout rates in the order of the layers. None uses the rates above.
        **kwargs: prior_scale, kernel_prior, max_pixel, num_samples, seed and name, see `Network`.

    Raises:
        ValueError: If `architecture` or `inference` is unknown, the number of rates is wrong or
            the images are too small.

    Reference:
        Gal, Islam and Ghahramani 2017, "Deep Bayesian Active Learning with Image Data", section
        5.1, arXiv:1703.02910; Kirsch, van Amersfoort and Gal 2019, "BatchBALD", section 4.1,
        arXiv:1906.08158.

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
        architecture: str = "gal",
        inference: str = "mc_dropout",
        dropout_rates: tuple[float, ...] | None = None,
        **kwargs,
    ):
        if architecture not in _ARCHITECTURES:
            raise ValueError(
                f"Expected one of {tuple(_ARCHITECTURES)} for `architecture`. "
                f"Received: architecture={architecture!r}. Hint: 'gal' is the smaller one."
            )
        _, smallest, usual_rates = _ARCHITECTURES[architecture]
        rates = usual_rates if dropout_rates is None else tuple(dropout_rates)
        if len(rates) != len(usual_rates):
            raise ValueError(
                f"Expected {len(usual_rates)} `dropout_rates` for {architecture!r}. "
                f"Received: dropout_rates={rates}. Hint: the default is {usual_rates}."
            )
        check_image(input_shape, smallest)
        super().__init__(
            input_shape,
            num_classes,
            architecture=architecture,
            inference=inference,
            dropout_rates=rates,
            **kwargs,
        )

    @staticmethod
    def make_outputs(
        x: keras.KerasTensor,
        num_classes: int,
        factory: LayerFactory,
        seed: int | None,
        architecture: str = "gal",
        dropout_rates: tuple[float, ...] = (),
    ) -> keras.KerasTensor:
        """Build the network, see `Network.make_outputs`."""
        features, _, _ = _ARCHITECTURES[architecture]
        init = initializers(4, seed)
        seeds = [None if seed is None else seed + 4 + i for i in range(len(dropout_rates))]
        x = features(x, factory, init, dropout_rates, seeds)
        return factory.dense(
            num_classes, activation="softmax", kernel_initializer=init[3], name="probabilities"
        )(x)


def _gal(x, factory: LayerFactory, init: list, rates: tuple, seeds: list) -> keras.KerasTensor:
    x = factory.conv_2d(32, 4, activation="relu", kernel_initializer=init[0], name="conv_1")(x)
    x = factory.conv_2d(32, 4, activation="relu", kernel_initializer=init[1], name="conv_2")(x)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = factory.dropout(rates[0], seeds[0], name="dropout_1")(x)
    x = factory.dense(128, activation="relu", kernel_initializer=init[2], name="dense")(x)
    return factory.dropout(rates[1], seeds[1], name="dropout_2")(x)


def _kirsch(x, factory: LayerFactory, init: list, rates: tuple, seeds: list) -> keras.KerasTensor:
    for i, filters in enumerate((32, 64)):
        x = factory.conv_2d(filters, 5, kernel_initializer=init[i], name=f"conv_{i + 1}")(x)
        x = factory.dropout(rates[i], seeds[i], name=f"dropout_{i + 1}", whole_maps=True)(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{i + 1}")(x)
        x = keras.layers.ReLU(name=f"relu_{i + 1}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = factory.dense(128, kernel_initializer=init[2], name="dense")(x)
    x = factory.dropout(rates[2], seeds[2], name="dropout_3")(x)
    return keras.layers.ReLU(name="relu_3")(x)


# By name: function of the layers before the softmax, smallest image side, default dropout rates.
_ARCHITECTURES = {
    "gal": (_gal, 8, (0.25, 0.5)),
    "kirsch": (_kirsch, 16, (0.5, 0.5, 0.5)),
}
