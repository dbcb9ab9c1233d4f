"""Images that stay in their files and are decoded on demand, by index."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import PIL.Image
    import tensorflow as tf

SUFFIXES = frozenset(
    [
        ".bmp",
        ".gif",
        ".jfif",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
NAMED = 5  # number of files that an error lists
_GRAY = ("1", "L")
_COLOR = ("RGB", "P", "CMYK", "YCbCr", "LAB", "HSV")
_ALPHA = ("LA", "RGBA", "PA", "La", "RGBa")
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112  # EXIF
_THREADS = min(4, os.cpu_count() or 1)


class ImageHeader(NamedTuple):
    """The header of an image: size after EXIF rotation, number of channels, and Pillow's mode."""

    height: int
    width: int
    channels: int
    mode: str


class UnreadableImageError(ValueError):
    """The error for a file without a readable image, with the reason."""


class ImageFiles:
    """Images that are decoded from their files on each access by index.

    Use it instead of an array (N, H, W, C) that would not fit in memory: as the `x` of a learner,
    or the inputs of `predict_uncertainty`. For `fit`, use
    `as_dataset(y).shuffle(...).batch(...)`.

    EXIF rotation is applied. Palettes and CMYK are converted to colors. Transparent images are
    put on a white background unless C is 4.

    Args:
        paths: Paths of N files.
        shape: (H, W, C) of every image. Other images are resized, bilinearly with antialiasing, and
            converted. C is 1, 3, or 4 with transparency.
        folder: Folder that `names` are relative to.

    Attributes:
        names: (N,) paths relative to `folder`, with "/" on every system.
        shape: (N, H, W, C).

    Example:

    >>> import PIL.Image
    >>> from tfp_bayes.datasets import ImageFiles
    >>> PIL.Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    >>> images = ImageFiles([tmp_path / "a.png"], (6, 8, 3), tmp_path)
    >>> images.shape, images[np.array([0, 0])].shape, images.names.tolist()
    ((1, 6, 8, 3), (2, 6, 8, 3), ['a.png'])
    """

    dtype = np.dtype("uint8")

    def __init__(
        self, paths: Sequence[Path], shape: tuple[int, int, int], folder: str | Path = "."
    ):
        self.paths = list(paths)
        self.folder = Path(folder)
        self.shape = (len(self.paths), *shape)
        self.names = np.array([relative(path, self.folder) for path in self.paths], dtype=str)

    @property
    def ndim(self) -> int:
        """The number of axes, 4."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices) -> np.ndarray:
        """Returns images (n, H, W, C) uint8 for indices (n,) or a slice; (H, W, C) for one."""
        chosen = np.arange(len(self))[indices]
        if chosen.ndim == 0:
            return self._decode(self.paths[int(chosen)])
        images = np.empty((len(chosen), *self.shape[1:]), "uint8")

        def fill(place: int) -> None:
            images[place] = self._decode(self.paths[chosen[place]])

        with ThreadPoolExecutor(_THREADS) as threads:  # Pillow releases the GIL
            for _ in threads.map(fill, range(len(chosen))):
                pass
        return images

    def select(self, indices: np.ndarray) -> ImageFiles:
        """Returns a subset of the images, without decoding them."""
        return ImageFiles([self.paths[i] for i in indices], self.shape[1:], self.folder)

    def as_dataset(self, labels: np.ndarray | None = None) -> tf.data.Dataset:
        """Returns an unbatched `tf.data.Dataset` of images, or of (image, label), in file order."""
        import tensorflow as tf

        images = tf.data.Dataset.range(len(self)).map(
            lambda i: tf.ensure_shape(tf.numpy_function(self._one, [i], tf.uint8), self.shape[1:]),
            num_parallel_calls=_THREADS,
        )
        if labels is None:
            return images
        return tf.data.Dataset.zip((images, tf.data.Dataset.from_tensor_slices(labels)))

    def _one(self, index: np.ndarray) -> np.ndarray:
        return self[int(index)]

    def _decode(self, path: Path) -> np.ndarray:
        height, width, channels = self.shape[1:]
        return decode(path, (height, width), channels)


def read_header(path: Path) -> ImageHeader:
    """Reads the header of an image file.

    Raises:
        UnreadableImageError: If the file is not an image with at most eight bits per channel.
    """
    with _Opened(path) as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: several views
            raise UnreadableImageError("several frames in one file")
        channels = _channels(image)
        width, height = image.size
        exif = image.getexif()
        if image.format == "TIFF":  # for which new releases of Pillow state the size when upright
            width, height = exif.get(_WIDTH, width), exif.get(_HEIGHT, height)
        if exif.get(_ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        return ImageHeader(height, width, channels, image.mode)


def decode(path: Path, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Returns the image (H, W, C) uint8 of a file, upright, resized and converted if needed.

    Raises:
        UnreadableImageError: If the file is damaged; the message has its path.
    """
    import PIL.Image
    import PIL.ImageOps

    height, width = image_size
    try:
        with _Opened(path) as image:
            # Decoding a large JPEG at 1/8 to 1/2 of its size is many times faster. It stays at
            # least twice the requested size, so that resizing still averages.
            image.draft(None, (2 * max(image_size), 2 * max(image_size)))
            upright = _with_channels(PIL.ImageOps.exif_transpose(image), channels)
            if upright.size != (width, height):
                upright = upright.resize((width, height), PIL.Image.Resampling.BILINEAR)
            return np.asarray(upright, "uint8").reshape(height, width, channels)
    except UnreadableImageError as error:
        raise UnreadableImageError(
            f"Expected an image in {path}. Received: {error}. "
            "Hint: replace or remove the file, or leave such files out with skip_bad=True."
        ) from None


def one_shape(
    headers: Sequence[ImageHeader],
    names: Sequence[str],
    image_size: tuple[int, int] | None,
    channels: int | None,
) -> tuple[int, int, int]:
    """Returns the common shape (H, W, C) of all images after the requested conversions.

    Raises:
        ValueError: If images differ in size or channels and no conversion was requested; the
            message lists the ones that differ.
    """
    if channels not in (None, 1, 3, 4):
        raise ValueError(
            f"Expected 1, 3 or 4 for `channels`. Received: channels={channels!r}. "
            "Hint: 1 is gray, 3 is color, and 4 is color with transparency."
        )
    wanted = None if image_size is None else (int(image_size[0]), int(image_size[1]))
    sizes = [wanted or (each.height, each.width) for each in headers]
    depths = [each.channels if channels is None else channels for each in headers]
    size = Counter(sizes).most_common(1)[0][0]
    depth = Counter(depths).most_common(1)[0][0]
    odd = [i for i in range(len(headers)) if (sizes[i], depths[i]) != (size, depth)]
    if odd:
        described = [
            f"{names[i]} ({sizes[i][0]} x {sizes[i][1]}, {_words(headers[i])})" for i in odd[:NAMED]
        ]
        more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
        hints = []
        if any(sizes[i] != size for i in odd):
            hints.append(f"image_size={tuple(size)} resizes")
        if any(depths[i] != depth for i in odd):
            hints.append(f"channels={3 if depth == 1 else depth} converts")
        raise ValueError(
            "Expected images of one size and number of channels. Received: most with "
            f"{size[0]} x {size[1]} pixels and {depth} channel{'s'[: depth > 1]}, but "
            f"{', '.join(described)}{more}. Hint: {' and '.join(hints)} all of them."
        )
    return (*size, depth)


def relative(path: Path, folder: Path) -> str:
    """Returns the path of a file relative to a folder, with "/" on every system."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


class _Opened:
    """A context that opens an image and turns every error of Pillow into UnreadableImageError."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> PIL.Image.Image:
        import PIL.Image

        try:
            if not self.path.stat().st_size:
                raise UnreadableImageError("an empty file")
            self.image = PIL.Image.open(self.path)
        except Exception as error:
            raise _unreadable(error) from None
        return self.image

    def __exit__(self, kind, error, trace) -> None:
        self.image.close()
        if isinstance(error, Exception):
            raise _unreadable(error) from None


def _unreadable(error: Exception) -> UnreadableImageError:
    # Decoders raise OSError, SyntaxError, ValueError, struct.error and others for damaged files.
    if isinstance(error, UnreadableImageError):
        return error
    if type(error).__name__ == "UnidentifiedImageError":
        return UnreadableImageError("not an image format that Pillow knows")
    return UnreadableImageError(str(error) or type(error).__name__)


def _channels(image: PIL.Image.Image) -> int:
    if image.mode in _ALPHA or image.has_transparency_data:
        return 4
    if image.mode in _GRAY:
        return 1
    if image.mode in _COLOR:
        return 3
    raise UnreadableImageError(f"pixels of mode {image.mode!r}, which do not fit in 8 bits")


def _with_channels(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    import PIL.Image

    transparent = _channels(image) == 4
    if channels == 4:
        return image.convert("RGBA")
    if transparent:
        layer = image.convert("RGBA")
        image = PIL.Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    if image.mode not in (*_GRAY, "RGB"):
        image = image.convert("RGB")  # Pillow cannot convert CMYK and others to gray
    return image.convert("L" if channels == 1 else "RGB")


def _words(header: ImageHeader) -> str:
    names = {"P": "palette", "L": "gray", "1": "black and white", "CMYK": "CMYK", "RGB": "color"}
    name = "transparency" if header.channels == 4 else names.get(header.mode, header.mode)
    return f"{name}, {header.channels} channel{'s'[: header.channels > 1]}"
