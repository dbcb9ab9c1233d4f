"""Image data sets: MNIST from the package at once, any other through TensorFlow Datasets."""

import difflib
import functools
import gzip
import hashlib
import socket
import threading
import urllib.parse
import urllib.request
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

_MNIST_SHA256 = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_MNIST_NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
MNIST_FILES = {f"{n}-ubyte.gz": sha for n, sha in zip(_MNIST_NAMES, _MNIST_SHA256)}
CONNECT_SECONDS = 5


class Dataset(NamedTuple):
    """Images and labels of a classification task.

    Attributes:
        x_train: (N, H, W, C) uint8.
        y_train: (N,) int64, class numbers.
        x_test: (N', H, W, C) uint8.
        y_test: (N',) int64.
        class_names: K strings.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]

    @property
    def splits(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The data as `keras.datasets` gives them: (x_train, y_train), (x_test, y_test)."""
        return (self.x_train, self.y_train), (self.x_test, self.y_test)


def load(
    name: str,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Loads an image-classification data set into memory.

    "mnist" comes with the package and needs neither network nor TensorFlow. Any other name is
    one of TensorFlow Datasets, which downloads and prepares it the first time.

    Args:
        name: "mnist", "fashion_mnist", "cifar10", "svhn_cropped", "kmnist", "malaria" ...
        data_dir: Where TensorFlow Datasets keeps prepared data; None is its default.
        manual_dir: Folder with the data set's files as downloaded by hand, under their original
            names; None is `<data_dir>/downloads/manual`.
        image_size: (H, W) to resize to; needed where the images differ in size.

    Returns:
        A `Dataset`. Where TensorFlow Datasets knows no "test" split, "validation" is taken, or
        else a fifth of the training data, stratified by class, the same at each call.

    Raises:
        ValueError: If the name is unknown, the data set has no images with class labels, its
            images differ in size and `image_size` is None, or a packaged file is damaged.
        ConnectionError: If files are missing and their server cannot be reached.

    Example:

    >>> data = load("mnist")
    >>> data.x_train.shape, data.y_test[:5]
    ((60000, 28, 28, 1), array([7, 2, 1, 0, 4]))
    >>> (x_train, y_train), (x_test, y_test) = data.splits
    """
    if name == "mnist" and image_size is None:
        return _packaged_mnist()
    return _from_tfds(name, data_dir, manual_dir, image_size)


# MNIST, from the files in the package.


def _packaged_mnist() -> Dataset:
    folder = resources.files("tfp_bayes") / "data" / "mnist"
    x_train, y_train, x_test, y_test = (_read_idx(folder / file) for file in MNIST_FILES)
    return Dataset(
        x_train[..., np.newaxis],
        y_train.astype("int64"),
        x_test[..., np.newaxis],
        y_test.astype("int64"),
        tuple("0123456789"),
    )


def _read_idx(path) -> np.ndarray:
    """Reads an idx file: two zero bytes, type (8: uint8), rank, sizes as big-endian int32."""
    raw = gzip.decompress(_verified(path))
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", count=rank, offset=4)
    return np.frombuffer(raw, "uint8", offset=4 + 4 * rank).reshape(shape)


@functools.cache
def _verified(path) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    if digest != MNIST_FILES[path.name]:
        raise ValueError(
            f"Expected SHA-256 {MNIST_FILES[path.name]} for the packaged {path.name}. "
            f"Received: {digest if content else 'no file'}. Hint: reinstall tfp_bayes."
        )
    return content


# Everything else, from TensorFlow Datasets.


def _from_tfds(name, data_dir, manual_dir, image_size) -> Dataset:
    import tensorflow_datasets as tfds  # takes seconds, and MNIST does without

    builder = _builder(tfds, name, data_dir)
    is_dict = isinstance(builder.info.features, tfds.features.FeaturesDict)
    features = dict(builder.info.features.items()) if is_dict else {}
    if not (
        isinstance(features.get("image"), tfds.features.Image)
        and isinstance(features.get("label"), tfds.features.ClassLabel)
    ):
        raise ValueError(
            "Expected a data set with an 'image' and a class 'label'. "
            f"Received: {name!r} with features {list(features)}. "
            "Hint: load it with tensorflow_datasets and pass arrays."
        )
    if None in features["image"].shape and image_size is None:
        raise ValueError(
            f"Expected `image_size`, as the images of {name!r} differ in size. "
            "Received: image_size=None. Hint: image_size=(64, 64)."
        )
    _prepare(tfds, builder, manual_dir)
    splits = builder.info.splits
    x_train, y_train = _arrays(tfds, builder, "train", image_size)
    held_out = next((split for split in ("test", "validation") if split in splits), None)
    if held_out is not None:
        x_test, y_test = _arrays(tfds, builder, held_out, image_size)
    else:
        x_train, x_test, y_train, y_test = train_test_split(
            x_train, y_train, test_size=0.2, random_state=0, stratify=y_train
        )
    return Dataset(x_train, y_train, x_test, y_test, tuple(features["label"].names))


def _builder(tfds, name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, known) or ["fashion_mnist", "cifar10"]
        raise ValueError(
            "Expected 'mnist' or a data set of TensorFlow Datasets for `name`. "
            f"Received: name={name!r}. Hint: did you mean one of {close}?"
        ) from error


def _prepare(tfds, builder, manual_dir) -> None:
    if builder.is_prepared():
        return
    download_dir = Path(builder._data_dir_root, "downloads")
    manual_dir = Path(manual_dir or download_dir / "manual").expanduser()
    missing = {
        url: info.filename
        for url, info in (builder.url_infos or {}).items()
        if not (manual_dir / info.filename).exists()
    }
    # TensorFlow Datasets would retry for minutes before it says that there is no network.
    if missing and not any(_reachable(url) for url in missing):
        raise ConnectionError(
            f"Expected the files of {builder.name!r} or a network to fetch them from. "
            f"Received: no answer from {sorted({urllib.parse.urlsplit(u).netloc for u in missing})}"
            f" within {CONNECT_SECONDS} s. Hint: download {sorted(missing)} elsewhere, put the "
            f"files under their own names ({sorted(missing.values())}) into {manual_dir}, or name "
            "their folder with manual_dir=."
        )
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    builder.download_and_prepare(download_dir=download_dir, download_config=config)


def _reachable(url: str) -> bool:
    """Tells whether the server of a URL, or the proxy to it, accepts connections."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()
            answered.set()
        except OSError:
            pass

    # In a thread, because looking up the name has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return answered.is_set()


def _arrays(tfds, builder, split, image_size) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    def image_and_label(example):
        image = example["image"]
        if image_size is not None:
            image = tf.cast(tf.round(tf.image.resize(image, image_size)), tf.uint8)
        return image, example["label"]

    dataset = builder.as_dataset(split=split, shuffle_files=False).map(image_and_label)
    images, labels = zip(*tfds.as_numpy(dataset))
    return np.stack(images), np.asarray(labels, dtype="int64")
