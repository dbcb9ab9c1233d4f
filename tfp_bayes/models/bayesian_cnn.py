"""Gal's Bayesian convolutional network."""

import keras
import numpy as np

from tfp_bayes.layers import MCDropout
from tfp_bayes.models.bayesian_model import BayesianModel

_DROPOUT = {"mc_dropout": MCDropout, "deterministic": keras.layers.Dropout}


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianCNN(BayesianModel):
    """The small Bayesian CNN of deep Bayesian active learning, for images.

    conv(32, 4x4) - relu - conv(32, 4x4) - relu - max pool 2 - dropout - dense 128 - relu -
    dropout - dense softmax. The model divides pixels by `max_pixel` itself, so it takes images as
    they are stored, and so does what is exported.

    Args:
        input_shape: (H, W, C), channels last.
        num_classes: K.
        inference: "mc_dropout", or "deterministic" for its twin with ordinary dropout, which is
            off at inference: the same network without uncertainty about its weights.
        dropout_rates: Rates after the pooling and after the dense layer.
        prior_scale: Standard deviation of the Gaussian prior on kernels, see `BayesianModel`.
        max_pixel: Largest value of a pixel: 255 as stored, 1 for images scaled beforehand.
        num_samples: S of `predict` and `evaluate`; None is 100, and 1 for "deterministic".
        seed: Integer that sets initial weights and training noise, or None.
        name: String or None.

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
        prior_scale: float | None = 1.0,
        max_pixel: float = 255.0,
        num_samples: int | None = None,
        seed: int | None = None,
        name: str | None = None,
    ):
        if inference not in _DROPOUT:
            raise ValueError(
                f"Expected one of {sorted(_DROPOUT)} for `inference`. "
                f"Received: inference={inference!r}. Hint: 'mc_dropout' is the Bayesian one."
            )
        if len(input_shape) != 3 or min(input_shape[:2]) < 8:
            raise ValueError(
                "Expected (height, width, channels) with height and width of 8 or more for "
                f"`input_shape`. Received: input_shape={tuple(input_shape)}. "
                "Hint: grey images need a last axis of 1."
            )
        # One seed for each random thing: equal seeds would give equal noise.
        seeds = [None] * 6 if seed is None else [seed + i for i in range(6)]
        init = [keras.initializers.GlorotUniform(s) for s in seeds[:4]]
        dropout = _DROPOUT[inference]
        layers = keras.layers
        images = keras.Input(input_shape, name="images")
        x = layers.Rescaling(1 / max_pixel, name="rescale")(images)
        x = layers.Conv2D(32, 4, activation="relu", kernel_initializer=init[0], name="conv_1")(x)
        x = layers.Conv2D(32, 4, activation="relu", kernel_initializer=init[1], name="conv_2")(x)
        x = layers.MaxPooling2D(2, name="pool")(x)
        x = layers.Flatten(name="flatten")(x)
        x = dropout(dropout_rates[0], seed=seeds[4], name="dropout_1")(x)
        x = layers.Dense(128, activation="relu", kernel_initializer=init[2], name="dense")(x)
        x = dropout(dropout_rates[1], seed=seeds[5], name="dropout_2")(x)
        x = layers.Dense(
            num_classes, activation="softmax", kernel_initializer=init[3], name="probabilities"
        )(x)
        if num_samples is None:
            num_samples = 1 if inference == "deterministic" else 100
        super().__init__(images, x, name=name, prior_scale=prior_scale, num_samples=num_samples)
        self._config = {
            "input_shape": tuple(input_shape),
            "num_classes": num_classes,
            "inference": inference,
            "dropout_rates": tuple(dropout_rates),
            "prior_scale": prior_scale,
            "max_pixel": max_pixel,
            "num_samples": num_samples,
            "seed": seed,
        }

    def fit(self, x=None, *args, **kwargs) -> keras.callbacks.History:
        """Trains, see `BayesianModel.fit`.

        Raises:
            ValueError: If arrays were scaled to another range than `max_pixel` says: the network
                would see nothing and learn nothing.
        """
        largest = np.max(x[:1000], initial=0) if isinstance(x, np.ndarray) else None
        max_pixel = self._config["max_pixel"]
        if largest is not None and 0 < largest < max_pixel / 50:
            raise ValueError(
                f"Expected pixels up to {max_pixel:g} for `x`, as BayesianCNN(max_pixel=) says. "
                f"Received: x with largest value {largest:g}. "
                "Hint: pass images as stored, or BayesianCNN(max_pixel=1)."
            )
        return super().fit(x, *args, **kwargs)

    def get_config(self) -> dict:
        """Returns the constructor arguments, plain JSON."""
        return {**self._config, "name": self.name}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "BayesianCNN":
        """Rebuilds the model from `get_config()`."""
        return cls(**config)
