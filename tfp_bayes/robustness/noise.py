"""Corruptions by random noise, and of light and color.

Every function takes float64 images (B, H, W, C) in [0, 1], one random generator per image, and the
constants of a severity. Its caller clips the result to [0, 1].
"""

from collections.abc import Callable, Sequence

import numpy as np

Generators = Sequence[np.random.Generator]


def drawn(generators: Generators, draw: Callable[[np.random.Generator], object]) -> np.ndarray:
    """Returns the stacked draws of all generators, (B, ...)."""
    return np.stack([np.asarray(draw(generator)) for generator in generators])


def gaussian_noise(x: np.ndarray, generators: Generators, scale: float) -> np.ndarray:
    """Adds normal noise with standard deviation `scale`."""
    return x + scale * drawn(generators, lambda g: g.normal(size=x.shape[1:]))


def speckle_noise(x: np.ndarray, generators: Generators, scale: float) -> np.ndarray:
    """Adds normal noise whose standard deviation is `scale` times the pixel value."""
    return x + x * scale * drawn(generators, lambda g: g.normal(size=x.shape[1:]))


def shot_noise(x: np.ndarray, generators: Generators, photons: float) -> np.ndarray:
    """Replaces pixels by Poisson photon counts; a white pixel has `photons` on average."""
    return np.stack([g.poisson(image * photons) / photons for image, g in zip(x, generators)])


def impulse_noise(x: np.ndarray, generators: Generators, amount: float) -> np.ndarray:
    """Sets a random share `amount` of all values to 0 or 1 with equal probability."""
    uniform = drawn(generators, lambda g: g.uniform(size=(2, *x.shape[1:])))
    salt_or_pepper = (uniform[:, 1] < 0.5).astype(x.dtype)
    return np.where(uniform[:, 0] < amount, salt_or_pepper, x)


def contrast(x: np.ndarray, generators: Generators, factor: float) -> np.ndarray:
    """Moves every value toward the mean of its image and channel."""
    mean = x.mean((1, 2), keepdims=True)
    return mean + factor * (x - mean)


def brightness(x: np.ndarray, generators: Generators, added: float) -> np.ndarray:
    """Increases the value (V) in HSV space, which for a gray image is the pixel itself."""
    value = x.max(-1, keepdims=True)
    brighter = np.minimum(value + added, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def saturate(x: np.ndarray, generators: Generators, factor: float, added: float) -> np.ndarray:
    """Changes the saturation (S) in HSV space; gray pixels have no hue and stay gray."""
    if x.shape[-1] != 3:
        raise ValueError(
            "Expected images with 3 channels for kind='saturate'. "
            f"Received: {x.shape[-1]}. Hint: gray images have no color saturation."
        )
    value = x.max(-1, keepdims=True)
    saturation = 1 - x.min(-1, keepdims=True) / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * factor + added, 0, 1)
    colored = (value > 0) & (saturation > 0)
    ratio = np.where(colored, wanted / np.where(colored, saturation, 1), 1)
    return value - (value - x) * ratio


def quantize(x: np.ndarray, generators: Generators, bits: int) -> np.ndarray:
    """Rounds to the nearest of 2^bits evenly spaced values."""
    steps = 2**bits - 1
    return np.round(x * steps) / steps


def inverse(x: np.ndarray, generators: Generators) -> np.ndarray:
    """Inverts the images."""
    return 1 - x


def stripe(x: np.ndarray, generators: Generators) -> np.ndarray:
    """Inverts the left and the right quarter of the images."""
    width = x.shape[2]
    quarter = np.r_[: width // 4, width - width // 4 : width]
    x = x.copy()
    x[:, :, quarter] = 1 - x[:, :, quarter]
    return x


def fog(
    x: np.ndarray, generators: Generators, amount: float, decay: float, size: int
) -> np.ndarray:
    """Adds a plasma fractal, and rescales so that the brightest value of an image does not grow.

    Args:
        x: Images (B, H, W, C).
        generators: One random generator per image.
        amount: Height of the fractal, where a white pixel is 1.
        decay: Smoothness of the fractal; larger is smoother.
        size: Side in pixels of the square fractal, whose corner is used.
    """
    height, width = x.shape[1:3]
    size = max(size, 2 ** int(np.ceil(np.log2(max(height, width)))))
    maps = [_plasma(generator, size, decay)[:height, :width] for generator in generators]
    brightest = x.max((1, 2, 3), keepdims=True)
    return (x + amount * np.stack(maps)[..., None]) * brightest / (brightest + amount)


def _plasma(generator: np.random.Generator, size: int, decay: float) -> np.ndarray:
    """Returns a height map (size, size) from 0 to 1 by the diamond-square algorithm.

    The map wraps around at its edges. Each level halves the distance between points. A new point is
    the mean of four neighbors plus uniform noise, whose amplitude falls by decay^2 at each level.
    """
    heights = np.zeros((1, 1), "float32")
    amplitude = 1.0
    while len(heights) < size:
        uniform = generator.random((3, *heights.shape), dtype="float32")
        noise = np.float32(amplitude) * (2 * uniform - 1)
        right, below = np.roll(heights, -1, 1), np.roll(heights, -1, 0)
        centers = (heights + right + below + np.roll(below, -1, 1)) / 4 + noise[0]
        # The middle of an edge has a corner at each end and a center on each side.
        across = (heights + right + centers + np.roll(centers, 1, 0)) / 4 + noise[1]
        down = (heights + below + centers + np.roll(centers, 1, 1)) / 4 + noise[2]
        upper = np.stack([heights, across], -1)
        lower = np.stack([down, centers], -1)
        heights = np.stack([upper, lower], 1).reshape(2 * len(heights), -1)
        amplitude /= decay**2
    return (heights - heights.min()) / np.ptp(heights)
