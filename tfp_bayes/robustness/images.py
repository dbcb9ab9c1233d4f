"""Checks of images for corruptions and attacks, and conversion from and to [0, 1]."""

import numpy as np

from tfp_bayes._plumbing.configured import check_positive

# Prevents a pixel value converted to [0, 1] and back from being rounded down by one.
_ROUNDING = 1e-6
MIN_SIZE = 8


def check_images(x: np.ndarray, max_pixel: float) -> np.ndarray:
    """Returns images (N, H, W, C) as an array.

    Raises:
        ValueError: If `x` is not images with values in [0, max_pixel], or seems to use another
            range.
    """
    check_positive(max_pixel=max_pixel)
    x = np.asarray(x)
    if x.dtype.kind not in "iu" and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"Expected integer or float images for `x`. Received: x of dtype {x.dtype}. "
            "Hint: use x.astype('uint8') for pixels from 0 to 255."
        )
    if x.dtype.kind in "iu" and max_pixel > np.iinfo(x.dtype).max:
        raise ValueError(
            f"Expected at most {np.iinfo(x.dtype).max}, the largest {x.dtype}, for `max_pixel`. "
            f"Received: max_pixel={max_pixel!r}. Hint: use x.astype('uint8') for pixels from 0 to "
            "255."
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
    """Returns images as float64 with values in [0, 1]."""
    return x.astype("float64") / max_pixel


def from_unit(unit: np.ndarray, max_pixel: float, dtype: np.dtype) -> np.ndarray:
    """Returns images of a dtype with values in [0, max_pixel].

    Values out of range are clipped. Integers are rounded down, as in the published files of MNIST-C
    and CIFAR-C, whose code casts to uint8.
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
            f"Expected finite images for `x`. {received} Hint: drop images with NaN or infinity."
        )
    if low < 0 or high > max_pixel:
        raise ValueError(
            f"Expected values in [0, {max_pixel:g}] for `x`. {received} Hint: max_pixel is the "
            "largest possible pixel value; standardize inside the model, with "
            "keras.layers.Normalization or Rescaling, not before."
        )
    # An all-black integer image is valid for any max_pixel; the range of a float one is unknown.
    if high <= 1 < max_pixel and (high > 0 or x.dtype.kind == "f"):
        raise ValueError(
            f"Expected values in [0, {max_pixel:g}] for `x`. {received} These seem to be images "
            "in [0, 1], which changes in units of 0 to 255 would destroy. "
            "Hint: pass max_pixel=1."
        )


def _shape_hint(x: np.ndarray) -> str:
    if x.ndim == 2:
        return "use x[None, :, :, None] for one image without channels"
    if x.ndim == 3 and x.shape[-1] in (1, 3):
        return "use x[None] for one image"
    if x.ndim == 3:
        return "use x[..., None] for images without channels"
    return "the channel axis comes last"
