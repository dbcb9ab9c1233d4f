"""Row sources: small objects that are sent to workers, where they read the inputs of a pool."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.digest import digest, digest_rows, spaced_rows

_START = 2**16  # bytes of an image file that its fingerprint covers


class RowSource:
    """Base class of row sources, which return inputs by index.

    A row source is a frozen dataclass whose fields say where the inputs are. Only the fields are
    pickled, copied and compared; open files stay in the process that opened them. Subclass it to
    use your own storage in `score_pool`. A row source can also be the `x` of a learner.
    """

    def __len__(self) -> int:
        """Return the number of rows N."""
        raise NotImplementedError

    def __getitem__(self, indices: np.ndarray, /) -> np.ndarray:
        """Return inputs (n, ...) for int64 indices (n,)."""
        raise NotImplementedError

    @property
    def spec(self) -> tuple[tuple[int, ...], str]:
        """Shape of one input, and the dtype."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Return a digest that identifies the rows. It should take seconds at most."""
        raise NotImplementedError

    def labels(self, indices: np.ndarray) -> np.ndarray | None:
        """Return labels (n,) or targets (n, D), or None if the source has none."""
        return None

    def names(self, indices: np.ndarray) -> list[str]:
        """Return names of the rows for display."""
        return [str(i) for i in np.asarray(indices).tolist()]

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, without open files."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}  # type: ignore[arg-type]


def absolute(path: str | Path, kind: str, is_folder: bool = False) -> str:
    """Return the absolute path of a file or folder, by which every worker finds it.

    Raises:
        ValueError: If it does not exist.
    """
    found = Path(path).expanduser().resolve()
    if not (found.is_dir() if is_folder else found.exists()):
        raise ValueError(
            f"Expected {kind}. Received: {path}, which does not exist. "
            "Hint: paths are relative to the current folder."
        )
    return str(found)


@dataclasses.dataclass(frozen=True)
class NpyRows(RowSource):
    """Rows of an array in a `.npy` file. Only the requested rows are read.

    Args:
        path: Path of the file of inputs (N, ...).
        labels_path: Path of a file of integer labels (N,), or of real targets (N,) or (N, D), or
            None.

    Raises:
        ValueError: If a file is missing or has other contents.

    Example:

    >>> from tfp_bayes.scale import NpyRows
    >>> np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    >>> rows = NpyRows(tmp_path / "x.npy")
    >>> len(rows), rows[np.array([2, 0])].tolist()
    (3, [[4.0, 5.0], [0.0, 1.0]])
    """

    path: str | Path
    labels_path: str | Path | None = None

    def __post_init__(self):
        object.__setattr__(self, "path", absolute(self.path, "a .npy file"))
        if self.labels_path is not None:
            labels = absolute(self.labels_path, "a .npy file of labels")
            object.__setattr__(self, "labels_path", labels)
            if self._labels.shape[:1] != self._x.shape[:1] or self._labels.dtype.kind not in "iuf":
                raise ValueError(
                    f"Expected {len(self)} labels in {labels}. Received: {self._labels.dtype} of "
                    f"shape {self._labels.shape}. Hint: save one label or target for each row."
                )
        if self._x.ndim < 1 or self._x.dtype.kind not in "buif" or not len(self._x):
            raise ValueError(
                f"Expected numbers (N, ...) in {self.path}. Received: {self._x.dtype} of shape "
                f"{self._x.shape}. Hint: np.save(path, x), with one example per row."
            )

    @functools.cached_property
    def _x(self) -> np.ndarray:
        return _load(self.path)

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        assert self.labels_path is not None
        return _load(self.labels_path)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._x[indices])

    @property
    def spec(self) -> tuple[tuple[int, ...], str]:
        """Shape of one input, and the dtype."""
        return self._x.shape[1:], str(self._x.dtype)

    def fingerprint(self) -> str:
        """Return a digest of all rows and labels in files of up to 256 MiB, else of 256 rows."""
        labels = None if self.labels_path is None else digest_rows(np.asarray(self._labels))
        return digest([str(self.spec), digest_rows(np.asarray(self._x)), labels])

    def labels(self, indices: np.ndarray) -> np.ndarray | None:
        """Return labels (n,) or targets (n, D), or None without `labels_path`."""
        return None if self.labels_path is None else np.asarray(self._labels[indices])


def _load(path: str | Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"Expected an array in {path}. Received: {error}. Hint: np.save(path, x)."
        ) from None
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"Expected one array in {path}. Received: a .npz archive, which cannot be read "
            "row by row. Hint: np.save(path, archive['x'])."
        )
    return array


@dataclasses.dataclass(frozen=True)
class ImageFolder(RowSource):
    """Images in a folder and its subfolders, sorted by name and decoded on request.

    Args:
        folder: Path of the folder, which all workers can reach.
        image_size: Size (H, W) to which images are resized. None takes the common size of all
            images.
        channels: Number of channels: 1, 3 or 4. None takes the common number of all images.
        divide_by: Positive number by which pixels, 0 to 255, are divided.
        skip_bad: Whether an unreadable image becomes a row of NaN, which is counted and never
            chosen. Otherwise its part fails.

    Raises:
        ValueError: If there are no images, their sizes or channels differ and are not given, or
            `divide_by` is not positive.
    """

    folder: str | Path
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    divide_by: float = 1.0
    skip_bad: bool = False

    def __post_init__(self):
        check_positive(divide_by=self.divide_by)
        object.__setattr__(self, "folder", absolute(self.folder, "a folder of images", True))
        size, channels = self.image_size, self.channels
        if size is None or channels is None:
            from tfp_bayes.datasets.folder import open_images

            *size, channels = open_images(*self._found).shape[1:]
        object.__setattr__(self, "image_size", (int(size[0]), int(size[1])))
        object.__setattr__(self, "channels", int(channels))

    @property
    def _found(self) -> tuple[Any, Any]:
        from tfp_bayes.datasets.folder import find
        from tfp_bayes.datasets.options import FileOptions

        options = FileOptions(
            image_size=self.image_size,
            channels=self.channels,
            labels=False,
            skip_bad=self.skip_bad,
        )
        return find(Path(self.folder), options), options

    @functools.cached_property
    def _images(self):
        from tfp_bayes.datasets.image_files import ImageFiles

        found, _ = self._found
        return ImageFiles(found.paths, self.spec[0], found.folder)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        if self.skip_bad:
            images = np.stack([self._or_nan(i) for i in np.asarray(indices)])
        else:
            images = self._images[indices]
        return images if self.divide_by == 1 else images.astype("float32") / self.divide_by

    def _or_nan(self, index: int) -> np.ndarray:
        from tfp_bayes.datasets.image_files import UnreadableImageError

        try:
            return self._images[index].astype("float32")
        except UnreadableImageError:
            return np.full(self.spec[0], np.nan, "float32")

    @property
    def spec(self) -> tuple[tuple[int, ...], str]:
        """Shape of one input, and the dtype."""
        assert self.image_size is not None
        assert self.channels is not None
        floats = self.skip_bad or self.divide_by != 1
        return (*self.image_size, self.channels), "float32" if floats else "uint8"

    def fingerprint(self) -> str:
        """Return a digest of the settings, the names and sizes of all files, and some contents.

        It reads the first 64 KiB of 256 evenly spaced files.
        """
        paths = self._images.paths
        sizes = [path.stat().st_size for path in paths]
        settings = [*self.spec, self.divide_by]
        contents = hashlib.sha256()
        for i in spaced_rows(len(paths)):
            with paths[i].open("rb") as file:
                contents.update(file.read(_START))
        return digest([str(settings), self._images.names.tolist(), sizes, contents.hexdigest()])

    def names(self, indices: np.ndarray) -> list[str]:
        """Return the paths of the images relative to the folder."""
        return self._images.names[np.asarray(indices)].tolist()
