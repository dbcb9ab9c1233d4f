"""The base of the ready-made networks."""

import keras
import numpy as np

from tfp_bayes import priors
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.layer_factory import LayerFactory, check_inference, is_variational
from tfp_bayes.prediction.predictor import DEFAULT_NUM_SAMPLES


class Network(BayesianModel):
    """A ready-made classifier: a `BayesianModel` that is configured by its constructor.

    A subclass implements `make_outputs`. A saved model stores the arguments of its constructor.
    The network itself divides pixels by `max_pixel`. The network and its exports therefore take
    images as they are stored.

    Args:
        input_shape: Shape of one example.
        num_classes: Number of classes K.
        inference: "mc_dropout"; "concrete_dropout" with learned rates; "flipout",
            "local_reparameterization" or "reparameterization" with random kernels; or
            "deterministic", the same network with dropout that is off at inference.
        prior_scale: Standard deviation of the Gaussian prior on kernels, see `BayesianModel`.
        kernel_prior: Another prior on random kernels. None is Normal(0, prior_scale).
        max_pixel: Largest value of a pixel: 255 for images as stored, 1 for scaled images.
        num_samples: Number of posterior samples S of `predict` and `evaluate`. None is 100, or 1
            for "deterministic".
        seed: Integer that determines initial weights and training noise, or None.
        name: Name of the model, or None.
        **arguments: Arguments of the subclass, which are passed on to `make_outputs`.

    Raises:
        ValueError: If `inference` is unknown, or `kernel_prior` is given but kernels are not
            random.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        inference: str = "mc_dropout",
        prior_scale: float | None = 1.0,
        kernel_prior: str | dict | priors.Prior | None = None,
        max_pixel: float = 255.0,
        num_samples: int | None = None,
        seed: int | None = None,
        name: str | None = None,
        **arguments,
    ):
        check_inference(inference)
        variational = is_variational(inference)
        if kernel_prior is not None and not variational:
            raise ValueError(
                f"Expected `kernel_prior` with random kernels only. Received: "
                f"kernel_prior={kernel_prior!r}, inference={inference!r}. "
                "Hint: set the prior of dropout with `prior_scale`."
            )
        prior = priors.get(kernel_prior, "kernel_prior")
        if prior is None and prior_scale is not None:
            factory = LayerFactory(inference, priors.Normal(scale=prior_scale), seed)
        else:
            factory = LayerFactory(inference, prior, seed)
        if num_samples is None:
            num_samples = 1 if inference == "deterministic" else DEFAULT_NUM_SAMPLES
        inputs = keras.Input(input_shape, name="images")
        x = keras.layers.Rescaling(1 / max_pixel, name="rescale")(inputs)
        outputs = self.make_outputs(x, num_classes, factory, seed, **arguments)
        super().__init__(
            inputs,
            outputs,
            name=name,
            # The layers of random kernels hold their priors.
            prior_scale=None if variational else prior_scale,
            num_samples=num_samples,
        )
        self._config = {
            "input_shape": tuple(input_shape),
            "num_classes": num_classes,
            "inference": inference,
            "prior_scale": prior_scale,
            "kernel_prior": prior and keras.saving.serialize_keras_object(prior),
            "max_pixel": max_pixel,
            "num_samples": num_samples,
            "seed": seed,
            **arguments,
        }

    @staticmethod
    def make_outputs(
        x: keras.KerasTensor, num_classes: int, factory: LayerFactory, seed: int | None
    ) -> keras.KerasTensor:
        """Build the network from scaled inputs to probabilities.

        Args:
            x: Inputs divided by `max_pixel`.
            num_classes: Number of classes K.
            factory: Creates layers with weights, and dropout.
            seed: Seed of the initial weights, or None.
        """
        raise NotImplementedError

    def fit(self, x=None, *args, **kwargs) -> keras.callbacks.History:
        """Train the network, see `BayesianModel.fit`.

        Raises:
            ValueError: If an array of images has a much smaller range than `max_pixel`, so that
                the network would see almost constant images and learn nothing.
        """
        if isinstance(x, np.ndarray):
            check_range(x[:1000], self._config["max_pixel"], type(self).__name__)
        return super().fit(x, *args, **kwargs)

    def get_config(self) -> dict:
        """Return the constructor arguments as plain JSON."""
        return {**self._config, "name": self.name}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "Network":
        """Rebuild the model from `get_config()`."""
        return cls(**config)


def check_image(input_shape: tuple[int, ...], smallest: int) -> None:
    """Raise ValueError unless the shape is (H, W, C), with both sides long enough."""
    if len(input_shape) != 3 or min(input_shape[:2]) < smallest:
        raise ValueError(
            f"Expected (height, width, channels) with height and width of {smallest} or more for "
            f"`input_shape`. Received: input_shape={tuple(input_shape)}. "
            "Hint: grayscale images need a last axis of 1."
        )


def check_range(images: np.ndarray, max_pixel: float, owner: str) -> None:
    """Raise ValueError if images are far below `max_pixel`, which is an argument of `owner`."""
    largest = np.max(images, initial=0)
    if 0 < largest < max_pixel / 50:
        raise ValueError(
            f"Expected inputs up to max_pixel={max_pixel:g} for `x`. "
            f"Received: x with largest value {largest:g}. "
            f"Hint: pass images as stored, or {owner}(max_pixel=1)."
        )


def initializers(number: int, seed: int | None, name: str = "GlorotUniform") -> list:
    """Create initializers with different seeds, so that no two layers start with equal weights."""
    make = getattr(keras.initializers, name)
    return [make(None if seed is None else seed + i) for i in range(number)]
