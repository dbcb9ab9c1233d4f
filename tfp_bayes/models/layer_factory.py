"""Makes the layers of a network for one way of inference."""

import keras

from tfp_bayes.models.layer_pairs import twin_class
from tfp_bayes.priors import Prior

_VARIATIONAL = ("flipout", "local_reparameterization", "reparameterization")
INFERENCES = ("mc_dropout", "concrete_dropout", *_VARIATIONAL, "deterministic")


def check_inference(inference: str, known: tuple[str, ...] = INFERENCES) -> None:
    """Raises ValueError unless the name is one of `known`."""
    if inference not in known:
        raise ValueError(
            f"Expected one of {known} for `inference`. Received: inference={inference!r}. "
            "Hint: 'mc_dropout' is the quickest Bayesian one, 'flipout' has random weights."
        )


def is_variational(inference: str) -> bool:
    """Tells whether an inference makes weights random."""
    return inference in _VARIATIONAL


class LayerFactory:
    """Makes layers of one network, so that a network is written once for every inference.

    Args:
        inference: One of `INFERENCES`.
        kernel_prior: Prior on the kernels of variational layers.
        seed: Seed of the noise, or None. `BayesianModel` keeps layers of one seed apart.

    Raises:
        ValueError: If `inference` is unknown.
    """

    def __init__(self, inference: str, kernel_prior: str | dict | Prior | None, seed: int | None):
        check_inference(inference)
        self.inference = inference
        self.kernel_prior = kernel_prior
        self.seed = seed

    def conv_2d(self, *args, **kwargs) -> keras.layers.Layer:
        """Makes a convolution; arguments of `keras.layers.Conv2D`."""
        return self._weights(keras.layers.Conv2D, *args, **kwargs)

    def dense(self, *args, **kwargs) -> keras.layers.Layer:
        """Makes a dense layer; arguments of `keras.layers.Dense`."""
        return self._weights(keras.layers.Dense, *args, **kwargs)

    def dropout(
        self,
        rate: float,
        seed: int | None = None,
        name: str | None = None,
        whole_maps: bool = False,
    ) -> keras.layers.Layer:
        """Makes the network's dropout, which random weights leave nothing to do for.

        Args:
            rate: Rate at which units, or feature maps if `whole_maps`, are dropped.
            seed: Integer or None.
            name: Name of the layer.
            whole_maps: Whether to drop feature maps of images as a whole.
        """
        if is_variational(self.inference):
            return keras.layers.Identity(name=name)
        kind = keras.layers.SpatialDropout2D if whole_maps else keras.layers.Dropout
        return self._class(kind)(rate, seed=seed, name=name)

    def _weights(self, kind: type, *args, **kwargs) -> keras.layers.Layer:
        if is_variational(self.inference):
            kwargs = {"kernel_prior": self.kernel_prior, "seed": self.seed, **kwargs}
        return self._class(kind)(*args, **kwargs)

    def _class(self, kind: type) -> type:
        """Returns the twin of a Keras class where this inference has one, else the class."""
        return twin_class(kind, self.inference) or kind
