"""A Bayesian multilayer perceptron."""

import keras

from tfp_bayes.models.layer_factory import LayerFactory
from tfp_bayes.networks.network import Network, initializers


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianMLP(Network):
    """A multilayer perceptron with relu on flattened inputs, the network of Bayes by Backprop.

    Args:
        input_shape: Shape of one example, which is flattened.
        num_classes: Number of classes K.
        hidden_units: Width of each hidden layer.
        inference: As in `BayesianCNN`.
        dropout_rate: Rate after every hidden layer, for dropout and "deterministic".
        **kwargs: prior_scale, kernel_prior, max_pixel, num_samples, seed and name, see `Network`.

    Raises:
        ValueError: If `inference` is unknown.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", section 5.1,
        arXiv:1505.05424.

    Example:

    >>> model = BayesianMLP((2,), 3, hidden_units=(16,), inference="flipout", max_pixel=1, seed=0)
    >>> model.predict_uncertainty(np.zeros((5, 2)), num_samples=10, seed=0).mean.shape
    (5, 3)
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (28, 28, 1),
        num_classes: int = 10,
        *,
        hidden_units: tuple[int, ...] = (400, 400),
        inference: str = "mc_dropout",
        dropout_rate: float = 0.5,
        **kwargs,
    ):
        super().__init__(
            input_shape,
            num_classes,
            hidden_units=tuple(hidden_units),
            inference=inference,
            dropout_rate=dropout_rate,
            **kwargs,
        )

    @staticmethod
    def make_outputs(
        x: keras.KerasTensor,
        num_classes: int,
        factory: LayerFactory,
        seed: int | None,
        hidden_units: tuple[int, ...] = (),
        dropout_rate: float = 0.5,
    ) -> keras.KerasTensor:
        """Build the network, see `Network.make_outputs`."""
        init = initializers(len(hidden_units) + 1, seed)
        x = keras.layers.Flatten(name="flatten")(x)
        for i, units in enumerate(hidden_units):
            x = factory.dense(
                units, activation="relu", kernel_initializer=init[i], name=f"dense_{i + 1}"
            )(x)
            x = factory.dropout(dropout_rate, seed=seed, name=f"dropout_{i + 1}")(x)
        return factory.dense(
            num_classes, activation="softmax", kernel_initializer=init[-1], name="probabilities"
        )(x)
