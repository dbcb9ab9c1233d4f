"""Noise of real targets that a posterior adds to outputs without scales of their own."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

NoiseScales = list[tf.Variable | None] | None  # see `LaplacePosterior.noise_scales`


def as_noise_scales(scales: Sequence[ArrayLike | None] | None) -> NoiseScales:
    """Store the standard deviations (D,) of the targets of each output, None if there are none.

    Raises:
        ValueError: If a standard deviation is not positive and finite.
    """
    if scales is None or all(scale is None for scale in scales):
        return None
    known = np.concatenate([np.ravel(scale) for scale in scales if scale is not None])
    if not (np.isfinite(known) & (known > 0)).all():
        raise ValueError(
            "Expected positive, finite standard deviations of the targets for `noise_scales`. "
            f"Received: {known[:5].tolist()}. Hint: leave it out if the outputs contain scales."
        )
    # Variables, because a predictor's graph must see new values.
    return [
        None if scale is None else tf.Variable(scale, trainable=False, dtype="float64")
        for scale in scales
    ]


def to_arrays(scales: NoiseScales) -> dict[str, np.ndarray]:
    """Return the arrays of a file, from which `from_arrays` restores the scales."""
    named = {f"noise_scale_{i}": scale for i, scale in enumerate(scales or ())}
    return {name: scale.numpy() for name, scale in named.items() if scale is not None}


def from_arrays(arrays: Mapping[str, np.ndarray], num_outputs: int) -> list[np.ndarray | None]:
    """Return the scales of each output, None for outputs without an array in a file."""
    return [arrays.get(f"noise_scale_{i}") for i in range(num_outputs)]
