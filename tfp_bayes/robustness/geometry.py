"""Corruptions that move pixels or draw lines, and rotation by a given angle.

The functions take the same arguments as those of `noise`. Lengths suit images of 28 or 32 pixels.
"""

from itertools import pairwise

import numpy as np
from scipy import ndimage

from tfp_bayes._plumbing.configured import check_finite
from tfp_bayes.robustness.images import check_images, from_unit, to_unit
from tfp_bayes.robustness.noise import Generators, drawn


def rotate_images(x: np.ndarray, degrees: float, max_pixel: float = 255) -> np.ndarray:
    """Rotates images around their center, as in rotated MNIST.

    Use it to see how accuracy falls and uncertainty rises as inputs gradually leave the training
    distribution. MNIST at 0, 15, ... 180 degrees is the usual series. Corners are filled with 0.

    Args:
        x: (N, H, W, C) integers or floats in [0, max_pixel].
        degrees: Counterclockwise angle in degrees.
        max_pixel: Largest possible pixel value: 255, or 1 for images scaled to [0, 1].

    Returns:
        Images of the same shape and dtype, interpolated linearly. Integers are rounded down.

    Raises:
        ValueError: If `x` is not such images, or the angle is not finite.

    Reference:
        Ovadia et al. 2019, "Can You Trust Your Model's Uncertainty?", section 4.1,
        arXiv:1906.02530.

    Example:

    >>> x = np.arange(64, dtype="uint8").reshape(1, 8, 8, 1)
    >>> (rotate_images(x, 90) == np.rot90(x, axes=(1, 2))).all()
    np.True_
    """
    x = check_images(x, max_pixel)
    check_finite(degrees=degrees)
    turned = _warp(to_unit(x, max_pixel), [_rotation(np.deg2rad(degrees))] * len(x))
    return from_unit(turned, max_pixel, x.dtype)


def rotate(x: np.ndarray, generators: Generators, radians: float) -> np.ndarray:
    """Rotates each image in a random one of both directions."""
    return _warp(x, [_rotation(sign * radians) for sign in _signs(generators)])


def shear(x: np.ndarray, generators: Generators, radians: float) -> np.ndarray:
    """Shears each image to a random side, which also makes it taller by 1 / cos(radians)."""
    angles = radians * _signs(generators)
    return _warp(x, [np.array([[np.cos(a), 0], [-np.sin(a), 1]]) for a in angles])


def scale(x: np.ndarray, generators: Generators, factor: float) -> np.ndarray:
    """Shrinks the content of images by a factor below 1."""
    return _warp(x, [np.eye(2) / factor] * len(x))


def translate(x: np.ndarray, generators: Generators, pixels: int) -> np.ndarray:
    """Moves each image along both axes, each in a random direction."""
    moves = pixels * drawn(generators, lambda g: g.choice([-1, 1], 2))
    return _warp(x, [np.eye(2)] * len(x), moves)


def elastic_transform(
    x: np.ndarray, generators: Generators, height: float, smoothness: float, corners: float
) -> np.ndarray:
    """Warps images by a random affine map, then moves each pixel by a smooth random field.

    Args:
        x: Images (B, H, W, C).
        generators: One random generator per image.
        height: Scale of the field, as a share of the image width.
        smoothness: Standard deviation of the blur that smooths the field, as a share of the width.
        corners: Largest move of the three points that define the affine map, as a share of the
            width.
    """
    size = x.shape[2]
    warped = np.empty_like(x)
    for image, generator, out in zip(x, generators, warped):
        matrix, offset = _random_affine(generator, image.shape[:2], corners * size)
        field = generator.uniform(-1, 1, (2, *image.shape[:2]))
        blurs = (0, smoothness * size, smoothness * size)
        field = height * size * ndimage.gaussian_filter(field, blurs, mode="reflect", truncate=3)
        places = np.indices(image.shape[:2]) + field
        places = np.einsum("ij,jhw->ihw", matrix, places) + offset[:, None, None]
        _look_up(image, places, out, mode="mirror")
    return warped


def line(x: np.ndarray, generators: Generators) -> np.ndarray:
    """Draws a line from left to right."""

    def draw(generator):
        start, end = generator.integers(0, 5), x.shape[2] - 6 + generator.integers(0, 5)
        rows = generator.integers(0, x.shape[1] - 1, 2)
        return _stroke(x.shape[1:3], (start, rows[0]), (end, rows[1]))

    return x + drawn(generators, draw)[..., None]


def dotted_line(x: np.ndarray, generators: Generators) -> np.ndarray:
    """Draws a line of dots, two pixels wide each, from left to right."""
    dots = np.arange(x.shape[2]) // 2 % 2

    def draw(generator):
        rows = generator.integers(0, x.shape[1] - 1, 2)
        return dots * _stroke(x.shape[1:3], (0, rows[0]), (x.shape[2] - 1, rows[1]))

    return x + drawn(generators, draw)[..., None]


def zigzag(x: np.ndarray, generators: Generators) -> np.ndarray:
    """Draws a zigzag line from left to right, up to two pixels away from its center line."""
    return x + drawn(generators, lambda g: _zigzag(g, x.shape[1:3]))[..., None]


def _zigzag(generator: np.random.Generator, shape: tuple[int, ...], width: float = 2.0):
    start = np.array([2.0, generator.integers(0, shape[0] - 1)])
    along = np.array([shape[1] - 5.0, generator.integers(-5, 5)])
    length = np.hypot(*along)
    along /= length
    across = np.array([-along[1], along[0]])
    turns = np.arange(width, length, 2 * width)
    distances = np.array([0, *turns, length])
    sides = np.array([0, *(width * (-1.0) ** np.arange(len(turns))), 0])
    points = start + distances[:, None] * along + sides[:, None] * across
    return np.minimum(sum(_stroke(shape, a, b) for a, b in pairwise(points)), 1)


def _stroke(shape: tuple[int, ...], start, end) -> np.ndarray:
    """Returns a line (H, W) between two points (column, row) that fades above and below."""
    slope = (end[1] - start[1]) / (end[0] - start[0])
    columns = np.arange(shape[1])
    middle = start[1] + slope * (columns - start[0])
    distance = np.minimum(np.abs(np.arange(shape[0])[:, None] - middle), 2.3 * (1 - 1e-10))
    ink = np.clip(1 + np.log1p(-distance / 2.3), 0, 1)
    return ink * ((columns >= np.floor(start[0])) & (columns < np.ceil(end[0])))


def _signs(generators: Generators) -> np.ndarray:
    return drawn(generators, lambda g: g.choice([-1, 1]))


def _rotation(radians: float) -> np.ndarray:
    """Returns the matrix from a target position (row, column) to its source position."""
    c, s = np.cos(radians), np.sin(radians)
    return np.array([[c, s], [-s, c]])


def _warp(x: np.ndarray, matrices, moves=None) -> np.ndarray:
    """Returns images whose pixels come from matrix @ (position - middle) + middle + move."""
    middle = (np.array(x.shape[1:3]) - 1) / 2
    centered = np.indices(x.shape[1:3]) - middle[:, None, None]
    warped = np.empty_like(x)
    for i, (image, matrix) in enumerate(zip(x, matrices)):
        move = middle if moves is None else middle + moves[i]
        places = np.einsum("ij,jhw->ihw", matrix, centered) + move[:, None, None]
        _look_up(image, places, warped[i], mode="grid-constant")
    return warped


def _look_up(image: np.ndarray, places: np.ndarray, out: np.ndarray, mode: str) -> None:
    # Without rounding, rotation by 90 degrees is not exact: its cosine is 6e-17.
    places = np.round(places, 9)
    for channel in range(image.shape[-1]):
        out[..., channel] = ndimage.map_coordinates(image[..., channel], places, order=1, mode=mode)


def _random_affine(generator: np.random.Generator, shape, reach: float):
    """Returns the matrix and the offset of the inverse of a random affine map."""
    middle, third = np.array(shape) // 2, min(shape) // 3
    points = middle + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + generator.uniform(-reach, reach, points.shape)
    # (moved, 1) @ solution = points, which maps positions in the result to the source image.
    solution = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points.astype("float64"))
    return solution[:2].T, solution[2]
