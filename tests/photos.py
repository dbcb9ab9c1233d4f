"""Small image files for tests."""

import numpy as np
import PIL.Image


def picture(seed=0, size=(6, 8), channels=3):
    """Return a random image (H, W[, C]) uint8."""
    rng = np.random.default_rng(seed)
    shape = size if channels == 1 else (*size, channels)
    return rng.integers(0, 256, shape, dtype="uint8")


def save(path, array=None, **kwargs):
    """Write an image to a file and return its pixels."""
    array = picture() if array is None else array
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path, **kwargs)
    return array


def class_folders(root, counts, **kwargs):
    """Write the given number of images for each class; return pixels by "class/number.png"."""
    return {
        f"{name}/{i:02d}.png": save(
            root / name / f"{i:02d}.png", picture(seed=100 * k + i, **kwargs)
        )
        for k, (name, count) in enumerate(counts.items())
        for i in range(count)
    }
