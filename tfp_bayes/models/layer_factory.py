"""Create the layers of a network for a given kind of inference."""

import keras

from tfp_bayes.models.layer_pairs import twin_class
from tfp_bayes.priors import Prior

_VARIATIONAL = ("flipout", "local_reparameterization", "reparameterization")
INFERENCES = ("mc_dropout", "concrete_dropout", *_VARIATIONAL, "deterministic")


def check_inference(inference: str, known: tuple[str, ...] = INFERENCES) -> None:
    """Raise ValueError unless the name is one of `known`."""
    if inference not in known:
        raise ValueError(
            f"Expected one of {known} for `inference`. Received: inference={inference!r}. "
            "Hint: 'mc_dropout' is the fastest Bayesian one; 'flipout' has random weights."
        )


def is_variational(inference: str) -> bool:
    """Return whether an inference treats weights as random variables."""
    return inference in _VARIATIONAL


class LayerFactory:
    """Create the layers of a network, whose architecture is then written once for all inferences.

    Args:
        inference: One of `INFERENCES`.
        kernel_prior: Prior on the kernels of variational layers.
        seed: Seed of the noise, or None. `BayesianModel` gives layers with the same seed
            different noise.

    Raises:
        ValueError: If `inference` is unknown.
    """

    def __init__(self, inference: str, kernel_prior: str | dict | Prior | None, seed: int | None):
        check_inference(inference)
        self.inference = inference
        self.kernel_prior = kernel_prior
        self.seed = seed

    def conv_2d(self, *args, **kwargs) -> keras.layers.Layer:
        """Create a convolution. Arguments are those of `keras.layers.Conv2D`."""
        return self._weights(keras.layers.Conv2D, *args, **kwargs)

    def dense(self, *args, **kwargs) -> keras.layers.Layer:
        """Create a dense layer. Arguments are those of `keras.layers.Dense`."""
        return self._weights(keras.layers.Dense, *args, **kwargs)

    def dropout(
        self,
        rate: float,
        seed: int | None = None,
        name: str | None = None,
        whole_maps: bool = False,
    ) -> keras.layers.Layer:
        """Create a dropout layer, or an identity if the weights are random.

        Args:
            rate: Rate at which units, or feature maps if `whole_maps`, are dropped.
            seed: Integer or None.
            name: Name of the layer.
            whole_maps: Whether to drop whole feature maps of images instead of units.
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
        """Return the twin of a Keras class for this inference, or the class if there is none."""
        return twin_class(kind, self.inference) or kind
