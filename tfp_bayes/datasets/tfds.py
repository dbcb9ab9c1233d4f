"""Image classification data sets of TensorFlow Datasets, by name."""

from __future__ import annotations

import socket
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfp_bayes._plumbing.dataset_names import unknown_name
from tfp_bayes.datasets.dataset import Dataset
from tfp_bayes.datasets.packaged import MNIST_FILES, from_idx
from tfp_bayes.datasets.resize import resize

# TensorFlow, TensorFlow Datasets and scikit-learn take seconds to import, and packaged data sets do
# not need them. The functions that use them import them.
if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

# Data sets with the file names and the format of MNIST. Distributions such as Debian
# (dataset-fashion-mnist) repack their files, whose checksums TensorFlow Datasets then refuses.
LIKE_MNIST = ("fashion_mnist", "kmnist")
# A host may have several addresses of which the first is unreachable, so there are two limits.
SECONDS_PER_ADDRESS = 3
SECONDS_PER_PROBE = 8
PORTS = {"http": 80, "https": 443, "ftp": 21}
FILES_IN_HINT = 10


def from_tfds(
    name: str,
    data_dir: str | Path | None,
    manual_dir: str | Path | None,
    image_size: tuple[int, int] | None,
) -> Dataset:
    """Loads a data set of TensorFlow Datasets. See `datasets.load`."""
    builder = _builder(name, data_dir)
    _check_features(builder, image_size)
    files = [Path(manual_dir or "").expanduser() / file for file in MNIST_FILES]
    if manual_dir is not None and name in LIKE_MNIST and all(file.is_file() for file in files):
        names = tuple(builder.info.features["label"].names)
        return from_idx((file.read_bytes() for file in files), image_size, names)
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
        # Without the cause, whose message lists all of the thousand names.
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
            "Hint: load it with tensorflow_datasets and use the arrays."
        )
    if None in image.shape and image_size is None:
        raise ValueError(
            f"Expected (H, W) for `image_size`, because the images of {builder.name!r} differ in "
            "size. Received: image_size=None. Hint: image_size=(64, 64)."
        )


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | Path | None) -> None:
    import tensorflow_datasets as tfds

    if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
        raise ValueError(
            f"Expected a folder for `manual_dir`. Received: manual_dir={str(manual_dir)!r}. "
            "Hint: create it and put the downloaded files in it."
        )
    folder = Path(manual_dir or builder.data_dir_root / "downloads" / "manual").expanduser()
    files = builder.url_infos or {}
    missing = {url: info for url, info in files.items() if not _is_local(builder, url, folder)}
    # The table has the files of all variants ("name/variant"). Only TensorFlow Datasets knows
    # whether the requested variant has all files that it needs.
    perhaps_complete = builder.builder_configs and len(missing) < len(files)
    # Without this check it would retry for minutes before it reports a missing network.
    if missing and not perhaps_complete and not _any_reachable({_address(url) for url in missing}):
        raise ConnectionError(_offline_message(builder, missing, folder))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))


def _is_local(builder: tfds.core.DatasetBuilder, url: str, manual_dir: Path) -> bool:
    """Returns whether a file is in `manual_dir` or was downloaded before."""
    from tensorflow_datasets.core.download import resource

    info = builder.url_infos[url]
    if info.filename and (manual_dir / info.filename).exists():
        return True
    downloads = builder.data_dir_root / "downloads"
    name = resource.get_dl_fname(url, info.checksum)
    return any(
        resource.is_locally_cached(folder / name)
        for folder in (downloads / builder.name, downloads)  # current and former location
    )


def _offline_message(builder: tfds.core.DatasetBuilder, missing: dict, manual_dir: Path) -> str:
    addresses = sorted(f"{host}:{port}" for host, port in {_address(url) for url in missing})
    lines = [f"  {info.filename or '(no name)'} from {url}" for url, info in missing.items()]
    if len(lines) > FILES_IN_HINT:
        lines[FILES_IN_HINT:] = [f"  and {len(lines) - FILES_IN_HINT} more"]
    return (
        f"Expected the files of {builder.name!r}, or a network to download them. "
        f"Received: no connection to {', '.join(addresses)} and no such files in {manual_dir}. "
        "Hint: download them elsewhere and put them, under these names, in that folder or in "
        "another one that you pass as manual_dir=; or copy "
        f"{builder.data_dir_root / builder.name} from a machine that has prepared the data set.\n"
        + "\n".join(lines)
    )


def _address(url: str) -> tuple[str, int]:
    """Returns the host and port that a download of `url` connects to; a proxy's if one is set."""
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

    # In daemon threads, because name resolution has no time limit of its own.
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
        return image if image_size is None else resize(image, image_size), example["label"]

    # Images may differ in size until they are resized, so they are batched only afterward.
    dataset = builder.as_dataset(split=split, shuffle_files=False).map(image_and_label)
    images, labels = zip(*dataset.batch(1000).as_numpy_iterator())
    return np.concatenate(images), np.concatenate(labels).astype("int64")
