"""Image data sets: MNIST from the package at once, any other through TensorFlow Datasets."""

from __future__ import annotations

import functools
import gzip
import hashlib
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tfp_bayes._plumbing.dataset_names import unknown_name

# TensorFlow, TensorFlow Datasets and scikit-learn take seconds to import and MNIST does without
# them, so the functions that use them import them.
if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
# Of RepeatedMNIST: 0.1 on pixels that are standardized, whose standard deviation is 78.6.
REPEATED_NOISE = 7.86
# Sets with files of these names in that format, which distributions repack with other checksums
# (Debian's dataset-fashion-mnist) than the ones TensorFlow Datasets insists on.
LIKE_MNIST = ("fashion_mnist", "kmnist")
# One host may have several addresses of which the first is dead, hence two limits.
SECONDS_PER_ADDRESS = 3
SECONDS_PER_PROBE = 8
PORTS = {"http": 80, "https": 443, "ftp": 21}
FILES_IN_HINT = 10


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

    "mnist" comes with the package and needs neither network nor TensorFlow. Any other name but
    "repeated_mnist" is one of TensorFlow Datasets, which downloads and prepares it the first time.

    Args:
        name: "mnist", "fashion_mnist", "cifar10", "svhn_cropped", "kmnist", "malaria" ...; or
            "repeated_mnist", whose training images are those of MNIST three times in a row, each
            copy with a little noise of its own (Kirsch et al. 2019, section 4.1).
        data_dir: Where TensorFlow Datasets keeps prepared data; None is its default. Not used
            for "mnist".
        manual_dir: Folder with the data set's files as downloaded by hand, under their original
            names; None is `<data_dir>/downloads/manual`. Not used for "mnist". The four files of
            "fashion_mnist" and "kmnist" are read as they are, repacked or not, such as those of
            Debian's package dataset-fashion-mnist.
        image_size: (H, W) to resize to, bilinear with antialiasing, without regard to the aspect
            ratio; needed where the images differ in size.

    Returns:
        A `Dataset`. Where TensorFlow Datasets knows no "test" split, "validation" is taken. With
        neither, a fifth of "train" is held out: stratified by class with scikit-learn's
        `train_test_split(test_size=0.2, random_state=0)`, so it is the same at each call.

    Raises:
        ValueError: If the name is unknown, the data set has no uint8 images with class labels, its
            images differ in size and `image_size` is None, `manual_dir` is no folder, or a
            packaged file is damaged.
        ConnectionError: If files are missing and their server cannot be reached. It lists the
            files to download elsewhere and the folder to put them in.

    Example:

    >>> data = load("mnist")
    >>> data.x_train.shape, data.y_test[:5]
    ((60000, 28, 28, 1), array([7, 2, 1, 0, 4]))
    >>> (x_train, y_train), (x_test, y_test) = data.splits
    """
    # TensorFlow Datasets takes "MNIST" for "mnist" too.
    if not name:
        raise unknown_name(name, ())
    if name.lower() == "mnist":
        return _packaged_mnist(image_size)
    if name.lower() == "repeated_mnist":
        return _repeated(_packaged_mnist(image_size))
    return _from_tfds(name, data_dir, manual_dir, image_size)


# MNIST, from the files in the package.


def _packaged_mnist(image_size: tuple[int, int] | None) -> Dataset:
    return _from_idx(map(_verified, MNIST_FILES), image_size)


def _from_idx(
    files: Iterable[bytes],
    image_size: tuple[int, int] | None,
    class_names: tuple[str, ...] = tuple("0123456789"),
) -> Dataset:
    """Reads the four files of MNIST or of a set that was published in its format."""
    x_train, y_train, x_test, y_test = (_parse_idx(gzip.decompress(file)) for file in files)
    x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]
    if image_size is not None:
        x_train, x_test = _resize_all(x_train, image_size), _resize_all(x_test, image_size)
    labels = y_train.astype("int64"), y_test.astype("int64")
    return Dataset(x_train, labels[0], x_test, labels[1], class_names)


def _repeated(data: Dataset) -> Dataset:
    """Repeats each training image three times, with Gaussian noise on each copy."""
    rng = np.random.default_rng(0)
    num, *shape = data.x_train.shape
    copies = np.empty([num, 3, *shape], "uint8")
    for i in range(3):
        noise = rng.standard_normal(data.x_train.shape, dtype="float32") * REPEATED_NOISE
        copies[:, i] = np.clip(np.rint(data.x_train + noise), 0, 255)
    return data._replace(x_train=copies.reshape(-1, *shape), y_train=np.repeat(data.y_train, 3))


@functools.cache
def _verified(name: str) -> bytes:
    """Reads a packaged file once per process, and only if it is what was packaged."""
    path = resources.files("tfp_bayes") / "data" / "mnist" / name
    content = path.read_bytes() if path.is_file() else None
    digest = "no file" if content is None else hashlib.sha256(content).hexdigest()
    if content is None or digest != MNIST_FILES[name]:
        raise ValueError(
            f"Expected SHA-256 {MNIST_FILES[name]} for the packaged file {path}. "
            f"Received: {digest}. Hint: reinstall tfp_bayes."
        )
    return content


def _parse_idx(raw: bytes) -> np.ndarray:
    """Parses idx: two zero bytes, type (8: uint8), rank, sizes as big-endian int32, values."""
    rank = raw[3]
    shape = tuple(np.frombuffer(raw, ">i4", count=rank, offset=4).tolist())
    values = np.frombuffer(raw, "uint8", offset=4 + 4 * rank)
    if raw[:3] != b"\x00\x00\x08" or values.size != np.prod(shape):
        raise ValueError(
            "Expected an idx file of uint8 (magic number 000008), as long as its header says. "
            f"Received: magic number {raw[:3].hex()}, shape {shape} and {values.size} values."
        )
    return values.reshape(shape).copy()  # a view of bytes would be read-only


# Everything else, from TensorFlow Datasets.


def _from_tfds(
    name: str,
    data_dir: str | Path | None,
    manual_dir: str | Path | None,
    image_size: tuple[int, int] | None,
) -> Dataset:
    builder = _builder(name, data_dir)
    _check_features(builder, image_size)
    files = [Path(manual_dir or "").expanduser() / file for file in MNIST_FILES]
    if manual_dir is not None and name in LIKE_MNIST and all(file.is_file() for file in files):
        names = tuple(builder.info.features["label"].names)
        return _from_idx((file.read_bytes() for file in files), image_size, names)
    if not builder.is_prepared():
        _prepare(builder, manual_dir)
    x_train, y_train = _arrays(builder, "train", image_size)
    held_out = [split for split in ("test", "validation") if split in builder.info.splits]
    if held_out:
        x_test, y_test = _arrays(builder, held_out[0], image_size)
    else:
        from sklearn.model_selection import train_test_split

        x_train, x_test, y_train, y_test = train_test_split(
            x_train, y_train, test_size=0.2, random_state=0, stratify=y_train
        )
    names = builder.info.features["label"].names
    return Dataset(x_train, y_train, x_test, y_test, tuple(names))


def _builder(name: str, data_dir: str | Path | None) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        # Without its cause, which prints every one of its thousand names.
        known = tfds.list_builders(with_community_datasets=False)
        raise unknown_name(name, known) from None


def _check_features(builder: tfds.core.DatasetBuilder, image_size: tuple[int, int] | None) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    if isinstance(features, tfds.features.FeaturesDict):
        features = dict(features.items())
    else:
        features = {"(not a dictionary)": features}
    image, label = features.get("image"), features.get("label")
    if not (
        isinstance(image, tfds.features.Image)
        and image.dtype == np.uint8
        and isinstance(label, tfds.features.ClassLabel)
    ):
        raise ValueError(
            "Expected a data set with uint8 Image 'image' and ClassLabel 'label' for `name`. "
            f"Received: name={builder.name!r} with features {features}. "
            "Hint: load it with tensorflow_datasets and pass arrays."
        )
    if None in image.shape and image_size is None:
        raise ValueError(
            f"Expected (H, W) for `image_size`, as the images of {builder.name!r} differ in size. "
            "Received: image_size=None. Hint: image_size=(64, 64)."
        )


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | Path | None) -> None:
    import tensorflow_datasets as tfds

    if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
        raise ValueError(
            f"Expected a folder for `manual_dir`. Received: manual_dir={str(manual_dir)!r}. "
            "Hint: create it and put the downloaded files into it."
        )
    folder = Path(manual_dir or builder.data_dir_root / "downloads" / "manual").expanduser()
    files = builder.url_infos or {}
    missing = {url: info for url, info in files.items() if not _is_local(builder, url, folder)}
    # The table holds the files of all variants ("name/variant"), of which one may have all it
    # needs: then only TensorFlow Datasets can tell.
    perhaps_complete = builder.builder_configs and len(missing) < len(files)
    # It would retry for minutes before it says that there is no network.
    if missing and not perhaps_complete and not _any_reachable({_address(url) for url in missing}):
        raise ConnectionError(_offline_message(builder, missing, folder))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))


def _is_local(builder: tfds.core.DatasetBuilder, url: str, manual_dir: Path) -> bool:
    """Tells whether a file lies in `manual_dir` or was downloaded before."""
    from tensorflow_datasets.core.download import resource

    info = builder.url_infos[url]
    if info.filename and (manual_dir / info.filename).exists():
        return True
    downloads = builder.data_dir_root / "downloads"
    name = resource.get_dl_fname(url, info.checksum)
    return any(
        resource.is_locally_cached(folder / name)
        for folder in (downloads / builder.name, downloads)  # today's place and the former one
    )


def _offline_message(builder: tfds.core.DatasetBuilder, missing: dict, manual_dir: Path) -> str:
    addresses = sorted(f"{host}:{port}" for host, port in {_address(url) for url in missing})
    lines = [f"  {info.filename or '(no name)'} from {url}" for url, info in missing.items()]
    if len(lines) > FILES_IN_HINT:
        lines[FILES_IN_HINT:] = [f"  and {len(lines) - FILES_IN_HINT} more"]
    return (
        f"Expected the files of {builder.name!r}, or a network to download them. "
        f"Received: no connection to {', '.join(addresses)} and no such files in {manual_dir}. "
        "Hint: download them elsewhere and put them, under these names, into that folder or into "
        "another that you pass as manual_dir=; or copy "
        f"{builder.data_dir_root / builder.name} from a machine that has prepared the data set.\n"
        + "\n".join(lines)
    )


def _address(url: str) -> tuple[str, int]:
    """The host and port that a download of `url` connects to: those of a proxy if one is set."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or "localhost"
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(host):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        host = parts.hostname or "localhost"
    return host, parts.port or PORTS.get(parts.scheme, 80)


def _any_reachable(addresses: set[tuple[str, int]]) -> bool:
    answered = threading.Event()

    def connect(address: tuple[str, int]) -> None:
        try:
            socket.create_connection(address, SECONDS_PER_ADDRESS).close()
            answered.set()
        except OSError:
            pass

    # In daemon threads, because looking up a name has no time limit of its own.
    threads = [threading.Thread(target=connect, args=(a,), daemon=True) for a in addresses]
    deadline = time.monotonic() + SECONDS_PER_PROBE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return answered.is_set()


def _arrays(
    builder: tfds.core.DatasetBuilder, split: str, image_size: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    def image_and_label(example: dict) -> tuple[tf.Tensor, tf.Tensor]:
        image = example["image"]
        return image if image_size is None else _resize(image, image_size), example["label"]

    # One at a time until resized, as the images may differ in size; then in batches for speed.
    dataset = builder.as_dataset(split=split, shuffle_files=False).map(image_and_label)
    images, labels = zip(*dataset.batch(1000).as_numpy_iterator())
    return np.concatenate(images), np.concatenate(labels).astype("int64")


def _resize_all(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    # In parts, because the intermediate result is float32.
    parts = range(0, len(images), 1000)
    return np.concatenate([_resize(images[i : i + 1000], image_size).numpy() for i in parts])


def _resize(images: np.ndarray | tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    import tensorflow as tf

    # Antialiased, or shrinking would skip pixels. Both kernels average: 0 to 255 stays so.
    return tf.cast(tf.round(tf.image.resize(images, image_size, antialias=True)), tf.uint8)
