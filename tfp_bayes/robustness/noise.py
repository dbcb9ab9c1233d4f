"""Corruptions that change each pixel by chance, and those of light and color.

Every function takes images (B, H, W, C) in [0, 1] in float64, a generator for each image, and the
constants of a severity; what it returns is clipped to [0, 1] afterwards.
"""

from collections.abc import Callable, Sequence

import numpy as np

Generators = Sequence[np.random.Generator]


def drawn(generators: Generators, draw: Callable[[np.random.Generator], object]) -> np.ndarray:
    """Returns what each image's generator draws, (B, ...)."""
    return np.stack([np.asarray(draw(generator)) for generator in generators])


def gaussian_noise(x: np.ndarray, generators: Generators, scale: float) -> np.ndarray:
    """Adds normal noise."""
    return x + scale * drawn(generators, lambda g: g.normal(size=x.shape[1:]))


def speckle_noise(x: np.ndarray, generators: Generators, scale: float) -> np.ndarray:
    """Adds normal noise in proportion to the pixel."""
    return x + x * scale * drawn(generators, lambda g: g.normal(size=x.shape[1:]))


def shot_noise(x: np.ndarray, generators: Generators, photons: float) -> np.ndarray:
    """Counts photons, of which a white pixel has `photons` on average."""
    return np.stack([g.poisson(image * photons) / photons for image, g in zip(x, generators)])


def impulse_noise(x: np.ndarray, generators: Generators, amount: float) -> np.ndarray:
    """Sets a share of all values to 0 or 1, either as likely."""
    uniform = drawn(generators, lambda g: g.uniform(size=(2, *x.shape[1:])))
    salt_or_pepper = (uniform[:, 1] < 0.5).astype(x.dtype)
    return np.where(uniform[:, 0] < amount, salt_or_pepper, x)


def contrast(x: np.ndarray, generators: Generators, factor: float) -> np.ndarray:
    """Draws every value towards the mean of its image and channel."""
    mean = x.mean((1, 2), keepdims=True)
    return mean + factor * (x - mean)


def brightness(x: np.ndarray, generators: Generators, added: float) -> np.ndarray:
    """Adds to the value of hue, saturation and value; a gray image has no other."""
    value = x.max(-1, keepdims=True)
    brighter = np.minimum(value + added, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def saturate(x: np.ndarray, generators: Generators, factor: float, added: float) -> np.ndarray:
    """Changes the saturation of colors; gray pixels, which have no hue, stay gray."""
    if x.shape[-1] != 3:
        raise ValueError(
            "Expected images of 3 channels for kind='saturate'. "
            f"Received: {x.shape[-1]}. Hint: gray images have no colors to saturate."
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
    """Exchanges dark and light."""
    return 1 - x


def stripe(x: np.ndarray, generators: Generators) -> np.ndarray:
    """Exchanges dark and light in the left and the right quarter."""
    width = x.shape[2]
    quarter = np.r_[: width // 4, width - width // 4 : width]
    x = x.copy()
    x[:, :, quarter] = 1 - x[:, :, quarter]
    return x


def fog(
    x: np.ndarray, generators: Generators, amount: float, decay: float, size: int
) -> np.ndarray:
    """Adds a plasma fractal, and keeps the brightest value of an image where it was.

    Args:
        x: Images.
        generators: One for each.
        amount: Height of the fractal, against 1 for a white pixel.
        decay: How much smoother it is than noise.
        size: Side of the square that the fractal fills, of which images show a corner.
    """
    height, width = x.shape[1:3]
    size = max(size, 2 ** int(np.ceil(np.log2(max(height, width)))))
    maps = [_plasma(generator, size, decay)[:height, :width] for generator in generators]
    brightest = x.max((1, 2, 3), keepdims=True)
    return (x + amount * np.stack(maps)[..., None]) * brightest / (brightest + amount)


def _plasma(generator: np.random.Generator, size: int, decay: float) -> np.ndarray:
    """Returns a height map (size, size) from 0 to 1 by the diamond-square algorithm.

    The map is a torus. Each level halves the distance of its points: each new one is the mean of
    four neighbors plus uniform noise, whose amplitude falls by decay^2 from level to level.
    """
    heights = np.zeros((1, 1), "float32")
    amplitude = 1.0
    while len(heights) < size:
        uniform = generator.random((3, *heights.shape), dtype="float32")
        noise = np.float32(amplitude) * (2 * uniform - 1)
        right, below = np.roll(heights, -1, 1), np.roll(heights, -1, 0)
        centers = (heights + right + below + np.roll(below, -1, 1)) / 4 + noise[0]
        # The middle of an edge has a corner at either end, and a center on either side.
        across = (heights + right + centers + np.roll(centers, 1, 0)) / 4 + noise[1]
        down = (heights + below + centers + np.roll(centers, 1, 1)) / 4 + noise[2]
        upper = np.stack([heights, across], -1)
        lower = np.stack([down, centers], -1)
        heights = np.stack([upper, lower], 1).reshape(2 * len(heights), -1)
        amplitude /= decay**2
    return (heights - heights.min()) / np.ptp(heights)
