"""Images as corruptions and attacks take them, and the rules for what they give back."""

import numpy as np

from tfp_bayes._plumbing.configured import check_positive

# So that a pixel value that went through [0, 1] and back is not rounded down to the next one.
_ROUNDING = 1e-6
MIN_SIZE = 8


def check_images(x: np.ndarray, max_pixel: float) -> np.ndarray:
    """Returns images (N, H, W, C) as an array.

    Raises:
        ValueError: If they are no images with values in [0, max_pixel], or seem to be in another
            range.
    """
    check_positive(max_pixel=max_pixel)
    x = np.asarray(x)
    if x.dtype.kind not in "iu" and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"Expected integer or float images for `x`. Received: x of dtype {x.dtype}. "
            "Hint: x.astype('uint8') for pixels of 0 to 255."
        )
    if x.ndim != 4 or min(x.shape[1:3]) < MIN_SIZE or x.shape[3] == 0:
        raise ValueError(
            f"Expected images (N, H, W, C) of at least {MIN_SIZE} x {MIN_SIZE} pixels for `x`. "
            f"Received: x of shape {x.shape}. Hint: {_shape_hint(x)}."
        )
    if x.size:
        _check_range(x, max_pixel)
    return x


def to_unit(x: np.ndarray, max_pixel: float) -> np.ndarray:
    """Returns images with values in [0, 1], in float64."""
    return x.astype("float64") / max_pixel


def from_unit(unit: np.ndarray, max_pixel: float, dtype: np.dtype) -> np.ndarray:
    """Returns images with values in [0, max_pixel] of a type.

    What is out of range is clipped. Integers are rounded down, as in the published files of
    MNIST-C and CIFAR-C, which cast to uint8.
    """
    pixels = np.clip(unit, 0, 1) * max_pixel
    if dtype.kind in "iu":
        pixels = np.floor(pixels + _ROUNDING)
    return pixels.astype(dtype)


def _check_range(x: np.ndarray, max_pixel: float) -> None:
    low, high = float(x.min()), float(x.max())
    received = f"Received: {x.dtype} values from {low:.4g} to {high:.4g}, max_pixel={max_pixel!r}."
    if not np.isfinite(x).all():
        raise ValueError(
            f"Expected finite images for `x`. {received} Hint: leave out images with NaN."
        )
    if low < 0 or high > max_pixel:
        raise ValueError(
            f"Expected values in [0, {max_pixel:g}] for `x`. {received} Hint: max_pixel is the "
            "largest value that a pixel can have; standardize inside the model, by "
            "keras.layers.Normalization or Rescaling, not before."
        )
    # A black integer image is one in any range; a float one is not known to be.
    if high <= 1 < max_pixel and (high > 0 or x.dtype.kind == "f"):
        raise ValueError(
            f"Expected values in [0, {max_pixel:g}] for `x`. {received} These seem to be images "
            "in [0, 1], of which a change in units of pixels would leave nothing. "
            "Hint: say max_pixel=1."
        )


def _shape_hint(x: np.ndarray) -> str:
    if x.ndim == 2:
        return "x[None, :, :, None] for one image without channels"
    if x.ndim == 3 and x.shape[-1] in (1, 3):
        return "x[None] for one image"
    if x.ndim == 3:
        return "x[..., None] for images without channels"
    return "channels come last"
