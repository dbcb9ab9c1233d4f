"""Packaged MNIST, and other data sets through TensorFlow Datasets, without a network."""

import shutil
import subprocess
import sys
import time
from importlib import resources

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfp_bayes import datasets

PACKAGED = resources.files("tfp_bayes") / "data" / "mnist"


def test_mnist():
    data = datasets.load("mnist")
    assert data.x_train.shape == (60_000, 28, 28, 1)
    assert data.x_test.shape == (10_000, 28, 28, 1)
    assert {a.dtype.name for a in data[:4]} == {"uint8", "int64"}
    assert data.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_train).tolist() == counts
    assert data.x_train.mean() == pytest.approx(33.318, abs=1e-3)
    assert data.class_names == tuple("0123456789")
    (x_train, y_train), (x_test, y_test) = data.splits
    assert (x_train is data.x_train, y_test is data.y_test) == (True, True)
    assert len(y_train) + len(x_test) == 70_000


def test_mnist_needs_neither_tensorflow_nor_a_second():
    code = (
        "import sys, time\n"
        "from tfp_bayes import datasets\n"
        "start = time.perf_counter()\n"
        "datasets.load('mnist')\n"
        "assert time.perf_counter() - start < 1\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_package_is_noticed(damage, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "mnist"
    shutil.copytree(PACKAGED, folder)
    file = folder / "t10k-labels-idx1-ubyte.gz"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    monkeypatch.setattr(datasets.resources, "files", lambda name: tmp_path)
    with pytest.raises(ValueError, match=r"SHA-256 f7ae60.*t10k-labels.*Hint: reinstall"):
        datasets.load("mnist")


def test_licence_travels_with_the_files():
    text = (PACKAGED / "README.md").read_text()
    assert "Attribution-ShareAlike 3.0" in text
    for name, digest in datasets.MNIST_FILES.items():
        assert name in text
        assert digest in text


# Small data sets that TensorFlow Datasets really builds, writes and reads.


def examples(count, size, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        shape = (*size(i), 3)
        yield i, {"image": rng.integers(0, 256, shape, dtype="uint8"), "label": i % 3}


class _Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    SHAPE = (4, 5, 3)
    SPLITS = {"train": 30, "test": 9}
    size = staticmethod(lambda i: (4, 5))

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            name: self._generate_examples(n, i) for i, (name, n) in enumerate(self.SPLITS.items())
        }

    def _generate_examples(self, count, seed):
        yield from examples(count, self.size, seed)


class SmallAnimals(_Builder):
    pass


class AnimalsWithoutTest(_Builder):
    SPLITS = {"train": 30}


class AnimalsOfAnySize(_Builder):
    SHAPE = (None, None, 3)
    size = staticmethod(lambda i: (4 + i % 2, 5))


class AnimalsWithoutLabels(_Builder):
    def _info(self):
        features = {"image": tfds.features.Image(shape=self.SHAPE), "name": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))


def test_tfds(tmp_path):
    data = datasets.load("small_animals", data_dir=tmp_path)
    assert data.x_train.shape == (30, 4, 5, 3)
    assert data.x_test.shape == (9, 4, 5, 3)
    assert (data.x_train.dtype, data.y_train.dtype) == ("uint8", "int64")
    assert data.class_names == ("cat", "dog", "owl")
    expected = {
        example["image"].tobytes(): example["label"]
        for _, example in examples(30, SmallAnimals.size, 0)
    }
    assert {x.tobytes(): y for x, y in zip(data.x_train, data.y_train)} == expected
    again = datasets.load("small_animals", data_dir=tmp_path)
    np.testing.assert_array_equal(data.x_train, again.x_train)


def test_tfds_without_a_test_split_holds_out_a_fifth(tmp_path):
    data = datasets.load("animals_without_test", data_dir=tmp_path)
    assert np.bincount(data.y_test).tolist() == [2, 2, 2]
    assert np.bincount(data.y_train).tolist() == [8, 8, 8]
    together = {x.tobytes() for x in [*data.x_train, *data.x_test]}
    assert len(together) == 30
    again = datasets.load("animals_without_test", data_dir=tmp_path)
    np.testing.assert_array_equal(data.x_test, again.x_test)


def test_tfds_images_of_any_size_are_resized(tmp_path):
    with pytest.raises(ValueError, match=r"Hint: image_size=\(64, 64\)"):
        datasets.load("animals_of_any_size", data_dir=tmp_path)
    data = datasets.load("animals_of_any_size", data_dir=tmp_path, image_size=(8, 8))
    assert data.x_train.shape == (30, 8, 8, 3)
    assert data.x_train.dtype == "uint8"


def test_tfds_without_labels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"features \['image', 'name'\]"):
        datasets.load("animals_without_labels", data_dir=tmp_path)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"name='fashion_mnst'.*\['fashion_mnist'\]"):
        datasets.load("fashion_mnst")


def test_no_network_is_said_within_seconds(tmp_path, monkeypatch):
    # A proxy on a port of this machine where nothing listens stands for the missing network.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"train-images.*manual_dir=") as caught:
        datasets.load("fashion_mnist", data_dir=tmp_path)
    assert time.perf_counter() - start < 10
    assert str(tmp_path / "downloads" / "manual") in str(caught.value)
