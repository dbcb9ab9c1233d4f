"""Data sets by name through TensorFlow Datasets, without a network."""

import gzip
import hashlib
import http.server
import importlib.util
import shutil
import socket
import sys
import threading
import time
from functools import partial
from importlib import resources

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfp_bayes import datasets
from tfp_bayes.datasets import tfds as tfds_source

PACKAGED = resources.files("tfp_bayes") / "data" / "mnist"


def test_repacked_files_in_the_format_of_mnist(tmp_path):
    """Files as in Debian's Fashion-MNIST, repacked with other checksums than TFDS requires."""
    for file in datasets.MNIST_FILES:
        content = gzip.decompress((PACKAGED / file).read_bytes())
        (tmp_path / file).write_bytes(gzip.compress(content, 1))
    data = datasets.load("fashion_mnist", data_dir=tmp_path / "data", manual_dir=tmp_path)
    mnist = datasets.load("mnist")
    np.testing.assert_array_equal(data.x_test, mnist.x_test)
    np.testing.assert_array_equal(data.y_train, mnist.y_train)
    assert data.class_names[0] == "T-shirt/top"


# Small data sets that TensorFlow Datasets builds, writes and reads.


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

    def _features(self):
        return {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
        }

    def _info(self):
        features = tfds.features.FeaturesDict(self._features())
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {
            name: examples(n, self.size, seed) for seed, (name, n) in enumerate(self.SPLITS.items())
        }

    def _generate_examples(self):
        raise NotImplementedError  # abstract in the base class, but not used here


class SmallAnimals(_Builder):
    pass


class AnimalsWithoutTest(_Builder):
    SPLITS = {"train": 30}


class AnimalsWithValidation(_Builder):
    SPLITS = {"train": 30, "validation": 9}


class AnimalsOfAnySize(_Builder):
    SHAPE = (None, None, 3)
    size = staticmethod(lambda i: (4 + i % 2, 5))


class AnimalsWithoutLabels(_Builder):
    def _features(self):
        return {"image": tfds.features.Image(shape=self.SHAPE), "name": tfds.features.Text()}


class AnimalsOfManyBits(_Builder):
    def _features(self):
        image = tfds.features.Image(shape=self.SHAPE, dtype=np.uint16, encoding_format="png")
        return {**super()._features(), "image": image}


def content(builder, split):
    """Returns the examples of a split as {bytes of the image: label}."""
    seed = list(builder.SPLITS).index(split)
    pairs = (example for _, example in examples(builder.SPLITS[split], builder.size, seed))
    return {example["image"].tobytes(): example["label"] for example in pairs}


def loaded(images, labels):
    return {x.tobytes(): y for x, y in zip(images, labels)}


def test_tfds(tmp_path):
    data = datasets.load("small_animals", data_dir=tmp_path)
    assert data.x_train.shape == (30, 4, 5, 3)
    assert data.x_test.shape == (9, 4, 5, 3)
    assert [a.dtype.name for a in data[:4]] == ["uint8", "int64"] * 2
    assert data.class_names == ("cat", "dog", "owl")
    assert loaded(data.x_train, data.y_train) == content(SmallAnimals, "train")
    assert loaded(data.x_test, data.y_test) == content(SmallAnimals, "test")
    again = datasets.load("small_animals", data_dir=tmp_path)
    for first, second in zip(data[:4], again):
        np.testing.assert_array_equal(first, second)


def test_tfds_without_a_test_split_holds_out_a_fifth(tmp_path):
    data = datasets.load("animals_without_test", data_dir=tmp_path)
    assert np.bincount(data.y_test).tolist() == [2, 2, 2]
    assert np.bincount(data.y_train).tolist() == [8, 8, 8]
    together = loaded([*data.x_train, *data.x_test], [*data.y_train, *data.y_test])
    assert together == content(AnimalsWithoutTest, "train")
    again = datasets.load("animals_without_test", data_dir=tmp_path)
    np.testing.assert_array_equal(data.x_test, again.x_test)


def test_tfds_takes_validation_where_there_is_no_test(tmp_path):
    data = datasets.load("animals_with_validation", data_dir=tmp_path)
    assert len(data.x_train) == 30
    assert loaded(data.x_test, data.y_test) == content(AnimalsWithValidation, "validation")


def test_tfds_images_of_any_size_are_resized(tmp_path):
    with pytest.raises(ValueError, match=r"image_size=None. Hint: image_size=\(64, 64\)"):
        datasets.load("animals_of_any_size", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())  # raised before the preparation, which may take hours
    data = datasets.load("animals_of_any_size", data_dir=tmp_path, image_size=(3, 5))
    assert data.x_train.shape == (30, 3, 5, 3)
    assert data.x_train.dtype == "uint8"
    raw = [e["image"] for _, e in examples(30, AnimalsOfAnySize.size, 0)]
    resized = [tf.image.resize(image, (3, 5), antialias=True).numpy().round() for image in raw]
    assert {x.tobytes() for x in data.x_train} == {x.astype("uint8").tobytes() for x in resized}


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("animals_without_labels", r"Image\(.*'name': Text"),
        ("animals_of_many_bits", "uint16"),
    ],
)
def test_tfds_of_other_features_is_refused(name, received, tmp_path):
    with pytest.raises(ValueError, match=rf"uint8 Image 'image'.*{name}.*{received}"):
        datasets.load(name, data_dir=tmp_path)


def test_unknown_name_lists_the_closest():
    with pytest.raises(ValueError, match=r"name='fashion_mnst'.*\['fashion_mnist'"):
        datasets.load("fashion_mnst")


# Files that must be fetched, manually into manual_dir or from a server on this machine.

FETCHING_BUILDER = """
import numpy as np
import tensorflow_datasets as tfds


class {name}(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in {configs}]

    def _info(self):
        features = {{
            "image": tfds.features.Image(shape=(4, 5, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }}
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        train, test = (self.builder_config.name,) * 2 if {configs} else ("a", "b")
        urls = {{"train": f"{url}/{{train}}.npy", "test": f"{url}/{{test}}.npy"}}
        paths = dl_manager.download(urls)
        return {{split: self._generate_examples(path) for split, path in paths.items()}}

    def _generate_examples(self, path):
        for i, image in enumerate(np.load(path)):
            yield i, {{"image": image, "label": i % 2}}
"""


class Remote:
    """A folder with two files, and a web server for it that runs only inside `with`."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.images = {}
        for seed, name in enumerate(("a", "b")):
            rng = np.random.default_rng(seed)
            self.images[name] = rng.integers(0, 256, (6, 4, 5, 3), dtype="uint8")
            np.save(folder / f"{name}.npy", self.images[name])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = free.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"

    def __enter__(self):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

        handler = partial(Handler, directory=self.folder)
        self.server = http.server.ThreadingHTTPServer(self.address, handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()

    def define_builder(self, name, configs=()):
        """Defines a data set in the usual form: code and a table of checksums."""
        code = self.folder.parent / "code" / name
        code.mkdir(parents=True)
        lines = []
        for file in sorted(self.folder.iterdir()):
            content = file.read_bytes()
            fields = (f"{self.url}/{file.name}", len(content), hashlib.sha256(content).hexdigest())
            lines.append("\t".join(map(str, (*fields, file.name))))
        (code / "checksums.tsv").write_text("\n".join(lines))
        module = code / f"{name}.py"
        module.write_text(FETCHING_BUILDER.format(name=name, configs=configs, url=self.url))
        spec = importlib.util.spec_from_file_location(name, module)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


@pytest.fixture
def remote(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return Remote(tmp_path / "remote")


def as_set(images):
    return {x.tobytes() for x in images}


def test_files_from_manual_dir_the_server_or_an_earlier_download(remote, tmp_path):
    remote.define_builder("FetchedAnimals")
    load = partial(datasets.load, "fetched_animals")

    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"no connection to 127.0.0.1:\d+ .*manual_dir=") as e:
        load(data_dir=tmp_path / "data")
    assert time.perf_counter() - start < 10
    assert str(tmp_path / "data" / "downloads" / "manual") in str(e.value)
    assert f"a.npy from {remote.url}/a.npy\n  b.npy from" in str(e.value)

    by_hand = load(data_dir=tmp_path / "by_hand", manual_dir=remote.folder)
    assert as_set(by_hand.x_train) == as_set(remote.images["a"])
    assert as_set(by_hand.x_test) == as_set(remote.images["b"])

    with remote:
        load(data_dir=tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "fetched_animals")  # keeps the downloads
    cached = load(data_dir=tmp_path / "data")
    assert as_set(cached.x_test) == as_set(remote.images["b"])


def test_a_partly_filled_manual_dir(remote, tmp_path):
    remote.define_builder("HalfFetchedAnimals")
    (remote.folder / "b.npy").unlink()
    with pytest.raises(ConnectionError, match=r"\n  b.npy from") as e:
        datasets.load("half_fetched_animals", tmp_path / "data", remote.folder)
    assert "a.npy" not in str(e.value)


def test_a_variant_needs_only_its_own_files(remote, tmp_path):
    remote.define_builder("VariantAnimals", configs=("a", "b"))
    (remote.folder / "b.npy").unlink()
    data = datasets.load("variant_animals/a", tmp_path / "data", remote.folder)
    assert as_set(data.x_test) == as_set(remote.images["a"])


def test_manual_dir_must_exist(remote, tmp_path):
    remote.define_builder("MislaidAnimals")
    with pytest.raises(ValueError, match=r"manual_dir='.*typo'"):
        datasets.load("mislaid_animals", tmp_path / "data", tmp_path / "typo")


def test_the_probe_asks_the_proxy(remote, monkeypatch):
    direct = ("www.example.org", 443)
    assert tfds_source._address("https://www.example.org/file") == direct
    assert tfds_source._address("http://www.example.org:81/file") == ("www.example.org", 81)
    monkeypatch.setenv("https_proxy", remote.url)
    assert tfds_source._address("https://www.example.org/file") == remote.address
    monkeypatch.setenv("no_proxy", "example.org")
    assert tfds_source._address("https://www.example.org/file") == direct


def test_the_probe_needs_one_answer(remote):
    nowhere = ("host.invalid", 80)
    assert not tfds_source._any_reachable({remote.address, nowhere})
    with remote:
        assert tfds_source._any_reachable({remote.address, nowhere})


def test_no_network_is_said_within_seconds(remote, tmp_path, monkeypatch):
    # A proxy without a listener simulates the missing network.
    monkeypatch.setenv("https_proxy", remote.url)
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"'cifar10'") as caught:
        datasets.load("cifar10", data_dir=tmp_path)
    assert time.perf_counter() - start < 10
    assert "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/" in str(caught.value)
