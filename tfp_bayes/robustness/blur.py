"""Corruptions that remove detail: blurs, shuffled or enlarged pixels, and splashes of mud.

The functions take the same arguments as those of `noise`.
"""

import numpy as np
from scipy import ndimage

from tfp_bayes.robustness.noise import Generators, drawn


def gaussian_blur(x: np.ndarray, generators: Generators, scale: float) -> np.ndarray:
    """Blurs with normal weights, whose standard deviation `scale` is in pixels, along both axes."""
    return ndimage.gaussian_filter(x, (0, scale, scale, 0), mode="nearest")


def defocus_blur(
    x: np.ndarray, generators: Generators, radius: float, smoothing: float
) -> np.ndarray:
    """Averages over a disk with a radius in pixels and a smoothed edge."""
    reach = int(np.ceil(radius)) + 1
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across**2 <= radius**2).astype(x.dtype)
    weights = np.exp(-0.5 * (np.arange(-1, 2) / smoothing) ** 2)
    weights /= weights.sum()
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(weights, weights), mode="constant")
    return ndimage.convolve(x, kernel[None, :, :, None], mode="mirror")


def motion_blur(x: np.ndarray, generators: Generators, radius: int, scale: float) -> np.ndarray:
    """Smears each image in a random direction within 45 degrees of the horizontal.

    As in ImageMagick, the weights decrease from the pixel to one side, as half a normal
    distribution over 2 radius + 1 positions, and each position uses the nearest pixel.
    """
    angles = np.deg2rad(drawn(generators, lambda g: g.uniform(-45, 45)))
    distances = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (distances / scale) ** 2)
    height, width = x.shape[1:3]
    images = np.arange(len(x))[:, None, None]
    smeared = np.zeros_like(x)
    for distance, weight in zip(distances, weights / weights.sum()):
        down = np.rint(distance * np.sin(angles)).astype(int)[:, None, None]
        right = np.rint(distance * np.cos(angles)).astype(int)[:, None, None]
        rows = np.clip(np.arange(height)[None, :, None] + down, 0, height - 1)
        columns = np.clip(np.arange(width)[None, None, :] + right, 0, width - 1)
        smeared += weight * x[images, rows, columns]
    return smeared


def zoom_blur(x: np.ndarray, generators: Generators, largest: float, step: float) -> np.ndarray:
    """Averages an image with enlarged copies of itself, by factors from 1 to `largest`."""
    factors = 1 + step * np.arange(round((largest - 1) / step) + 1)
    total = x.copy()
    for factor in factors:
        rows, columns = (_enlargement(size, factor) for size in x.shape[1:3])
        total += _resized(x, rows, columns)
    return total / (len(factors) + 1)


def glass_blur(
    x: np.ndarray,
    generators: Generators,
    scale: float,
    reach: int,
    repeats: int,
    share: float,
) -> np.ndarray:
    """Swaps pixels with nearby ones, between two blurs.

    Args:
        x: Images (B, H, W, C).
        generators: One random generator per image.
        scale: Standard deviation of the blurs in pixels.
        reach: Largest distance of a swap in pixels, along each axis.
        repeats: Number of visits to each pixel.
        share: Probability of a swap at each visit.
    """
    x = gaussian_blur(x, generators, scale)
    height, width = x.shape[1:3]
    visited = (repeats, height - 2 * reach, width - 2 * reach)
    moves = drawn(generators, lambda g: g.integers(-reach, reach, (2, *visited)))
    moves *= drawn(generators, lambda g: g.uniform(size=visited) < share)[:, None]
    images = np.arange(len(x))
    # Backward; the order matters because the swaps of a pixel reach those before it.
    for repeat in range(repeats):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                place = (repeat, row - reach - 1, column - reach - 1)
                rows = row + moves[:, 0, *place]
                columns = column + moves[:, 1, *place]
                here = x[:, row, column].copy()
                x[:, row, column] = x[images, rows, columns]
                x[images, rows, columns] = here
    return gaussian_blur(x, generators, scale)


def pixelate(x: np.ndarray, generators: Generators, factor: float) -> np.ndarray:
    """Shrinks images by a factor below 1, and enlarges them again without interpolation."""
    rows, columns = (
        _box_resizing(size, int(size * factor)) @ _box_resizing(int(size * factor), size)
        for size in x.shape[1:3]
    )
    return _resized(x, rows, columns)


def spatter(
    x: np.ndarray,
    generators: Generators,
    loc: float,
    scale: float,
    drop: float,
    threshold: float,
    edge: float,
) -> np.ndarray:
    """Covers parts of an image with mud.

    Args:
        x: Images (B, H, W, C).
        generators: One random generator per image.
        loc: Mean of the normal noise that decides where the mud is.
        scale: Standard deviation of that noise.
        drop: Standard deviation of the blur, in pixels, that merges the noise into drops.
        threshold: Mud covers the pixels where the blurred noise is above this value.
        edge: Standard deviation of the blur of the covered area, in pixels.
    """
    noise = drawn(generators, lambda g: g.normal(loc, scale, x.shape[1:3]))[..., None]
    covered = gaussian_blur(noise, generators, drop) > threshold
    opacity = gaussian_blur(covered.astype(x.dtype), generators, edge)
    opacity[opacity < 0.8] = 0
    return x * (1 - opacity) + 63 / 255 * opacity


def _resized(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns images with both axes mapped linearly, by matrices (H', H) and (W', W)."""
    down = np.matmul(rows, x.reshape(*x.shape[:2], -1)).reshape(len(x), -1, *x.shape[2:])
    return np.moveaxis(np.tensordot(down, columns, (2, 1)), 3, 2)


def _enlargement(size: int, factor: float) -> np.ndarray:
    """Returns the matrix (size, size) that enlarges the middle of an axis by interpolation."""
    part = int(np.ceil(size / factor))
    enlarged = round(part * factor)
    places = np.arange(enlarged) * (part - 1) / max(enlarged - 1, 1)
    nearness = 1 - np.abs(places[:, None] - np.arange(part))
    matrix = np.zeros((size, size))
    start, trimmed = (size - part) // 2, (enlarged - size) // 2
    matrix[:, start : start + part] = np.maximum(nearness, 0)[trimmed : trimmed + size]
    return matrix


def _box_resizing(size_out: int, size_in: int) -> np.ndarray:
    """Returns the matrix (out, in) that averages the pixels whose centers are in a new pixel."""
    ratio = size_in / size_out
    centers = (np.arange(size_out)[:, None] + 0.5) * ratio
    offsets = (np.arange(size_in) + 0.5 - centers) / max(ratio, 1)
    matrix = ((offsets > -0.5) & (offsets <= 0.5)).astype("float64")
    return matrix / matrix.sum(1, keepdims=True)
