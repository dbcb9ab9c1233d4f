"""The corruptions of MNIST-C and CIFAR-C that need only NumPy and SciPy."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.robustness import blur, geometry, noise
from tfp_bayes.robustness.images import check_images, from_unit, to_unit

# Images per block. Each image has its own random generator, so this affects memory only.
_BLOCK = 128


class Corruption(NamedTuple):
    """One kind of corruption.

    Attributes:
        function: Function of images (B, H, W, C) in [0, 1], B random generators, and constants.
        constants: Constants of severity 1 to 5, or a single entry if there are no severities.
    """

    function: Callable[..., np.ndarray]
    constants: tuple[tuple, ...]

    @property
    def has_severities(self) -> bool:
        """Whether the corruption differs between severities."""
        return len(self.constants) > 1


def _kind(function: Callable[..., np.ndarray], *constants) -> Corruption:
    as_tuples = (each if isinstance(each, tuple) else (each,) for each in constants)
    return Corruption(function, tuple(as_tuples) or ((),))


MNIST_C: Mapping[str, Corruption] = {
    "gaussian_noise": _kind(noise.gaussian_noise, 0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": _kind(noise.shot_noise, 60, 25, 12, 5, 3),
    "impulse_noise": _kind(noise.impulse_noise, 0.03, 0.06, 0.09, 0.17, 0.27),
    "speckle_noise": _kind(noise.speckle_noise, 0.15, 0.2, 0.35, 0.45, 0.6),
    "gaussian_blur": _kind(blur.gaussian_blur, 1, 2, 3, 4, 6),
    "glass_blur": _kind(
        blur.glass_blur,
        (0.7, 1, 2, 0.5),
        (0.9, 2, 1, 0.5),
        (1.0, 2, 3, 0.5),
        (1.1, 3, 2, 0.5),
        (1.5, 4, 2, 0.5),
    ),
    "motion_blur": _kind(blur.motion_blur, (10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "fog": _kind(
        noise.fog, (1.5, 2, 256), (2.0, 2, 256), (2.5, 1.7, 256), (2.5, 1.5, 256), (3.0, 1.4, 256)
    ),
    "spatter": _kind(
        blur.spatter,
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    ),
    "contrast": _kind(noise.contrast, 0.4, 0.3, 0.2, 0.1, 0.05),
    "brightness": _kind(noise.brightness, 0.1, 0.2, 0.3, 0.4, 0.5),
    "pixelate": _kind(blur.pixelate, 0.6, 0.5, 0.4, 0.3, 0.25),
    "quantize": _kind(noise.quantize, 5, 4, 3, 2, 1),
    "shear": _kind(geometry.shear, 0.2, 0.4, 0.6, 0.8, 1.0),
    "rotate": _kind(geometry.rotate, 0.2, 0.4, 0.6, 0.8, 1.0),
    "scale": _kind(geometry.scale, 0.9, 0.8, 0.7, 0.6, 0.5),
    "translate": _kind(geometry.translate, 1, 2, 3, 4, 5),
    "line": _kind(geometry.line),
    "dotted_line": _kind(geometry.dotted_line),
    "zigzag": _kind(geometry.zigzag),
    "stripe": _kind(noise.stripe),
    "inverse": _kind(noise.inverse),
}

CIFAR_C: Mapping[str, Corruption] = {
    "gaussian_noise": _kind(noise.gaussian_noise, 0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": _kind(noise.shot_noise, 500, 250, 100, 75, 50),
    "impulse_noise": _kind(noise.impulse_noise, 0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle_noise": _kind(noise.speckle_noise, 0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": _kind(blur.gaussian_blur, 0.4, 0.6, 0.7, 0.8, 1),
    "defocus_blur": _kind(
        blur.defocus_blur, (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)
    ),
    "glass_blur": _kind(
        blur.glass_blur,
        (0.05, 1, 1, 1.0),
        (0.25, 1, 1, 1.0),
        (0.4, 1, 1, 1.0),
        (0.25, 1, 2, 1.0),
        (0.4, 1, 2, 1.0),
    ),
    "motion_blur": _kind(blur.motion_blur, (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": _kind(
        blur.zoom_blur, (1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)
    ),
    "fog": _kind(
        noise.fog, (0.2, 3, 32), (0.5, 3, 32), (0.75, 2.5, 32), (1.0, 2, 32), (1.5, 1.75, 32)
    ),
    "brightness": _kind(noise.brightness, 0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": _kind(noise.contrast, 0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": _kind(
        geometry.elastic_transform,
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    ),
    "pixelate": _kind(blur.pixelate, 0.95, 0.9, 0.85, 0.75, 0.65),
    "saturate": _kind(noise.saturate, (0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2, 0.1), (2.5, 0.2)),
}

SUITES: Mapping[str, Mapping[str, Corruption]] = {"mnist_c": MNIST_C, "cifar_c": CIFAR_C}


def corrupt(
    x: np.ndarray,
    kind: str,
    severity: int = 1,
    suite: str = "mnist_c",
    max_pixel: float = 255,
    seed: int = 0,
) -> np.ndarray:
    """Corrupts images as in MNIST-C and CIFAR-C.

    Use it to compare accuracy, calibration and uncertainty under shift, over all kinds and
    severities, with those on the clean test set. `MNIST_C` has every kind of the published MNIST-C
    except canny_edges, and eight more from its authors. `CIFAR_C` lacks frost, snow, spatter and
    JPEG of CIFAR-10-C and its extra kinds. The images resemble the published ones but are not
    identical to them. In the code of MNIST-C, both blurs act along the columns only; here they act
    along both axes.

    Args:
        x: (N, H, W, C) integers or floats in [0, max_pixel]. The constants suit images of 28 x 28
            (MNIST) and 32 x 32 pixels; larger images are corrupted less.
        kind: A name in `MNIST_C` or `CIFAR_C`.
        severity: Integer from 1 to 5. The lines, stripe and inverse of MNIST-C ignore it.
        suite: "mnist_c" or "cifar_c"; their constants for the same kind differ.
        max_pixel: Largest possible pixel value: 255, or 1 for images scaled to [0, 1].
        seed: Integer seed >= 0. The corruption of image i depends on `seed` and i only, so
            severities share their noise, and a longer array begins with the same images.

    Returns:
        Images of the same shape and dtype, clipped to [0, max_pixel]. Integers are rounded down, as
        in the published files.

    Raises:
        ValueError: If an argument is invalid, or images in [0, 1] are given without
            `max_pixel=1`.

    Reference:
        Mu and Gilmer 2019, "MNIST-C: A Robustness Benchmark for Computer Vision",
        arXiv:1906.02337; Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness
        to Common Corruptions and Perturbations", arXiv:1903.12261.

    Example:

    >>> x = tfp_bayes.datasets.load("mnist").x_test[:10]
    >>> noisy = tfp_bayes.robustness.corrupt(x, "gaussian_noise", severity=3)
    >>> noisy.shape, noisy.dtype
    ((10, 28, 28, 1), dtype('uint8'))
    """
    if suite not in SUITES:
        raise ValueError(
            f"Expected one of {', '.join(SUITES)} for `suite`. Received: suite={suite!r}. "
            "Hint: 'mnist_c' is for gray images of 28 x 28 pixels, 'cifar_c' for photos of 32 x 32."
        )
    kinds = SUITES[suite]
    if kind not in kinds:
        raise ValueError(
            f"Expected one of {', '.join(kinds)} for `kind`. Received: kind={kind!r}. "
            f"Hint: the names are in tfp_bayes.robustness.{suite.upper()}."
        )
    check_integers(1, severity=severity)
    if severity > 5:
        raise ValueError(
            f"Expected 1 to 5 for `severity`. Received: severity={severity!r}. "
            "Hint: 5 is the strongest."
        )
    check_integers(0, seed=seed)
    x = check_images(x, max_pixel)
    function, constants = kinds[kind]
    chosen = constants[severity - 1] if len(constants) > 1 else constants[0]
    result = np.empty_like(x)
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        unit = to_unit(x[rows], max_pixel)
        generators = [np.random.default_rng([seed, start + i]) for i in range(len(unit))]
        result[rows] = from_unit(function(unit, generators, *chosen), max_pixel, x.dtype)
    return result
