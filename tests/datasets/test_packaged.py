"""Packaged data sets: complete, licensed, and loaded without TensorFlow."""

import csv
import gzip
import hashlib
import shutil
import subprocess
import sys
from importlib import resources

import numpy as np
import PIL.Image
import pytest

from tfp_bayes import datasets
from tfp_bayes.datasets import packaged, registry, resize

DATA = resources.files("tfp_bayes") / "data"


def test_mnist():
    data = datasets.load("mnist")
    assert data.x_train.shape == (60_000, 28, 28, 1)
    assert data.x_test.shape == (10_000, 28, 28, 1)
    assert [a.dtype.name for a in data[:4]] == ["uint8", "int64"] * 2
    assert data.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_train).tolist() == counts
    assert np.bincount(data.y_test).tolist() == [
        *(980, 1135, 1032, 1010, 982),
        *(892, 958, 1028, 974, 1009),
    ]
    assert data.x_train.mean() == pytest.approx(33.318, abs=1e-3)
    assert data.x_test.mean() == pytest.approx(33.791, abs=1e-3)
    assert data.class_names == tuple("0123456789")
    (x_train, y_train), (x_test, y_test) = data.splits
    for split, array in zip((x_train, y_train, x_test, y_test), data):
        assert split is array


def test_mnist_arrays_are_the_callers_own():
    first = datasets.load("mnist")
    for array in first[:4]:
        array[:] = 0  # a read-only view would raise
    assert datasets.load("mnist").x_train.any()


def test_packaged_sets_need_neither_tensorflow_nor_a_second():
    code = (
        "import sys, time\n"
        "sys.argv[0] = 'tfp-bayes'\n"  # unlike the library, the command imports no Keras
        "from tfp_bayes import datasets\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'keras'}\n"
        "assert not heavy & set(sys.modules), 'at import'\n"
        "datasets.load('mnist'), datasets.load('blood_cells')\n"
        "def seconds():\n"  # CPU time of this process, independent of the load
        "    start = time.process_time()\n"
        "    datasets.load('mnist')\n"
        "    return time.process_time() - start\n"
        "assert min(seconds() for _ in range(3)) < 1\n"
        "assert not heavy & set(sys.modules), 'at load'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_blood_cells():
    data = datasets.load("blood_cells")
    assert data.class_names == ("platelet", "red blood cell", "white blood cell")
    sets = {
        "train": (data.x_train, data.y_train),
        "validation": (data.x_validation, data.y_validation),
        "test": (data.x_test, data.y_test),
    }
    assert [len(x) for x, _ in sets.values()] == [2804, 1137, 945]
    for split, (x, y) in sets.items():
        assert x.shape == (len(y), 32, 32, 3)
        assert (x.dtype.name, y.dtype.name) == ("uint8", "int64")
        assert data.sources[split].shape == y.shape
    counts = sum(np.bincount(y, minlength=3) for _, y in sets.values())
    assert counts.tolist() == [361, 4153, 372]
    smears = [set(data.sources[split]) for split in sets]
    assert [len(each) for each in smears] == [205, 87, 72]
    assert len(set.union(*smears)) == 364  # no smear is in two splits


def test_blood_cells_lie_where_the_table_says():
    """Each row of the table is one tile; the oracle crops the mosaic instead of reshaping it."""
    data = datasets.load("blood_cells")
    mosaic = PIL.Image.open(DATA / "blood_cells" / "cells.png")
    with (DATA / "blood_cells" / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    tests = [number for number, row in enumerate(rows) if row["split"] == "test"]
    for place in (0, 1, 500, 944):
        top, left = 32 * (tests[place] // 70), 32 * (tests[place] % 70)
        crop = np.asarray(mosaic.crop((left, top, left + 32, top + 32)))
        np.testing.assert_array_equal(data.x_test[place], crop)
        assert data.class_names[data.y_test[place]] == rows[tests[place]]["label"]
        assert data.sources["test"][place] == rows[tests[place]]["smear"]
    assert data.x_test.any(axis=(1, 2, 3)).all()  # without the black tiles at the end


def test_blood_cells_resized():
    data = datasets.load("blood_cells", image_size=(8, 16))
    assert data.x_train.shape == (2804, 8, 16, 3)
    assert data.x_validation.shape == (1137, 8, 16, 3)


def test_repeated_mnist():
    mnist, data = datasets.load("mnist"), datasets.load("repeated_mnist")
    assert data.x_train.shape == (180_000, 28, 28, 1)
    np.testing.assert_array_equal(data.y_train, np.repeat(mnist.y_train, 3))
    np.testing.assert_array_equal(data.x_test, mnist.x_test)
    for i in range(3):
        copy = data.x_train[i:1500:3].astype("float64")
        # Far from both ends of the range the noise is not clipped.
        middle = (mnist.x_train[:500] > 60) & (mnist.x_train[:500] < 200)
        noise = (copy - mnist.x_train[:500])[middle]
        assert abs(noise.mean()) < 4 * 7.86 / np.sqrt(noise.size)
        assert abs(noise.std() - np.hypot(7.86, np.sqrt(1 / 12))) < 0.1
    assert (data.x_train[0] != data.x_train[1]).any()


def test_mnist_resized(monkeypatch):
    # Another size or spelling needs no network either.
    monkeypatch.setattr(registry.tfds, "from_tfds", None)
    data = datasets.load("MNIST", image_size=(14, 7))
    assert (data.x_train.shape, data.x_train.dtype) == ((60_000, 14, 7, 1), "uint8")
    assert data.x_test.shape == (10_000, 14, 7, 1)
    assert data.x_train.mean() == pytest.approx(33.318, abs=0.5)  # antialiasing preserves the mean
    one = np.ones((1, 6, 6, 1), "uint8") * 255
    np.testing.assert_array_equal(resize.resize(one, (4, 9)), np.full((1, 4, 9, 1), 255))


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_package_is_noticed(damage, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name in datasets.MNIST_FILES:
        shutil.copyfile(DATA / "mnist" / name, folder / name)
    monkeypatch.setattr(packaged.resources, "files", lambda name: tmp_path)
    packaged._verified.cache_clear()
    assert len(packaged.mnist(None).y_train) == 60_000  # the unchanged copy is accepted

    packaged._verified.cache_clear()
    file = folder / "t10k-labels-idx1-ubyte.gz"
    content = file.read_bytes()[:-1]
    file.unlink()
    received = "no file"
    if damage == "truncated":
        file.write_bytes(content)
        received = hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=rf"f7ae60.*t10k-labels.*{received}.*Hint: reinstall"):
        datasets.load("mnist")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x00\x00\x0d\x01\x00\x00\x00\x02ab", id="not-uint8"),
        pytest.param(b"\x00\x01\x08\x01\x00\x00\x00\x02ab", id="wrong-magic"),
        pytest.param(b"\x00\x00\x08\x01\x00\x00\x00\x03ab", id="too-short"),
    ],
)
def test_parse_idx_refuses(raw):
    good = packaged._parse_idx(b"\x00\x00\x08\x01\x00\x00\x00\x02ab")
    assert good.tolist() == [97, 98]
    with pytest.raises(ValueError, match="Expected an idx file"):
        packaged._parse_idx(raw)


def test_licence_travels_with_the_files():
    text = (DATA / "mnist" / "README.md").read_text()
    assert "Attribution-ShareAlike 3.0" in text
    assert "Yann LeCun and Corinna Cortes" in text
    for name, digest in datasets.MNIST_FILES.items():
        assert f"| {name} | {digest} |" in text
        assert gzip.decompress((DATA / "mnist" / name).read_bytes())
    assert "Copyright (c) 2017 shenggan" in (DATA / "blood_cells" / "LICENSE").read_text()
    text = (DATA / "blood_cells" / "README.md").read_text()
    for name, digest in packaged.BLOOD_CELLS_FILES.items():
        assert f"| {name} | {digest} |" in text


@pytest.mark.parametrize("image_size", [14, (14,), (0, 14), (14.5, 14), "14"])
def test_sizes_of_images_are_checked(image_size):
    with pytest.raises(ValueError, match=r"\(H, W\) for `image_size`"):
        datasets.load("mnist", image_size=image_size)
