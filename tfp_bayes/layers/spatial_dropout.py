"""Monte Carlo dropout of whole feature maps."""

import keras
import tensorflow as tf

from tfp_bayes.layers.dropout import MCDropout


def check_data_format(data_format: str | None) -> str:
    """Return a valid data format (the Keras default for None) or raise ValueError."""
    data_format = data_format or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "Expected 'channels_last' or 'channels_first' for `data_format`. "
            f"Received: data_format={data_format!r}. Hint: leave it out to use the Keras default."
        )
    return data_format


class _MCSpatialDropout(MCDropout):
    """Dropout of whole feature maps, with masks constant over the `spatial_rank` spatial axes."""

    spatial_rank: int

    def __init__(
        self, rate: float, data_format: str | None = None, *, seed: int | None = None, **kwargs
    ):
        super().__init__(rate, seed=seed, **kwargs)
        self.data_format = check_data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=self.spatial_rank + 2)

    def _mask_shape(self, inputs: tf.Tensor) -> list:
        sizes = tf.unstack(tf.shape(inputs))
        space = [1] * self.spatial_rank
        if self.data_format == "channels_first":
            return [sizes[0], sizes[1], *space]
        return [sizes[0], *space, sizes[-1]]

    def get_config(self) -> dict:
        config = super().get_config()
        del config["noise_shape"]
        return {**config, "data_format": self.data_format}


@keras.saving.register_keras_serializable("tfp_bayes")
class MCSpatialDropout1D(_MCSpatialDropout):
    """Monte Carlo dropout of whole channels of a sequence.

    Use it after a convolution, where neighboring units carry similar information and dropping
    single units removes little of it. Like `MCDropout`, it stays on at inference.

    Args:
        rate: Float in [0, 1), the probability that a channel is set to zero.
        data_format: "channels_last" (inputs (B, T, C)) or "channels_first" (inputs (B, C, T)).
            None uses the Keras default.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        `training=True`: one mask for each example. `training=False`: one mask for the whole
        batch. Each mask is constant over space.

    Losses:
        None.

    Raises:
        ValueError: If `rate` is outside [0, 1) or the inputs are not of rank 3.

    Reference:
        Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks",
        section 3.2, arXiv:1411.4280.

    Example:

    >>> layer = MCSpatialDropout1D(0.5, seed=0)
    >>> y = layer(np.ones((2, 5, 8)))
    >>> bool(np.all(np.ptp(y, axis=1) == 0))  # each channel is kept or dropped as a whole
    True
    """

    spatial_rank = 1


@keras.saving.register_keras_serializable("tfp_bayes")
class MCSpatialDropout2D(_MCSpatialDropout):
    """Monte Carlo dropout of whole feature maps of an image.

    Use it after a convolution, where neighboring units carry similar information and dropping
    single units removes little of it. Like `MCDropout`, it stays on at inference.

    Args:
        rate: Float in [0, 1), the probability that a map is set to zero.
        data_format: "channels_last" (inputs (B, H, W, C)) or "channels_first" (inputs
            (B, C, H, W)). None uses the Keras default.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        `training=True`: one mask for each example. `training=False`: one mask for the whole
        batch. Each mask is constant over space.

    Losses:
        None.

    Raises:
        ValueError: If `rate` is outside [0, 1) or the inputs are not of rank 4.

    Reference:
        Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks",
        section 3.2, arXiv:1411.4280.

    Example:

    >>> layer = MCSpatialDropout2D(0.5, seed=0)
    >>> y = layer(np.ones((2, 5, 5, 8)))
    >>> bool(np.all(np.ptp(y, axis=(1, 2)) == 0))  # each map is kept or dropped as a whole
    True
    """

    spatial_rank = 2


@keras.saving.register_keras_serializable("tfp_bayes")
class MCSpatialDropout3D(_MCSpatialDropout):
    """Monte Carlo dropout of whole feature maps of a volume.

    Use it after a convolution, where neighboring units carry similar information and dropping
    single units removes little of it. Like `MCDropout`, it stays on at inference.

    Args:
        rate: Float in [0, 1), the probability that a map is set to zero.
        data_format: "channels_last" (inputs (B, D, H, W, C)) or "channels_first" (inputs
            (B, C, D, H, W)). None uses the Keras default.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        `training=True`: one mask for each example. `training=False`: one mask for the whole
        batch. Each mask is constant over space.

    Losses:
        None.

    Raises:
        ValueError: If `rate` is outside [0, 1) or the inputs are not of rank 5.

    Reference:
        Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks",
        section 3.2, arXiv:1411.4280.

    Example:

    >>> layer = MCSpatialDropout3D(0.5, seed=0)
    >>> y = layer(np.ones((2, 3, 3, 3, 8)))
    >>> bool(np.all(np.ptp(y, axis=(1, 2, 3)) == 0))  # each map is kept or dropped as a whole
    True
    """

    spatial_rank = 3
