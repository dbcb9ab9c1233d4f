"""Row sources: rows by index, pickling, fingerprints and errors."""

import pickle

import numpy as np
import PIL.Image
import pytest

from tfp_bayes.scale import ImageFolder, NpyRows, ParquetRows

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture
def table(tmp_path):
    """Two Parquet files with row groups of 7 rows."""
    rng = np.random.default_rng(0)
    a, b, y = rng.normal(size=50), rng.integers(0, 9, 50), rng.integers(0, 3, 50)
    images = rng.integers(0, 256, (50, 6), dtype="uint8")
    for name, at in (("1.parquet", slice(0, 30)), ("2.parquet", slice(30, 50))):
        columns = {"a": a[at], "b": b[at], "y": y[at], "image": images[at].tolist()}
        columns["image"] = pa.array(columns["image"], pa.list_(pa.uint8()))
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=7)
    return tmp_path, np.stack([a, b], 1).astype("float32"), y, images


def test_parquet_rows_by_index(table):
    folder, x, y, images = table
    rows = ParquetRows(folder, ("a", "b"), label="y")
    assert (len(rows), rows.spec) == (50, ((2,), "float32"))
    for indices in (np.arange(50), np.array([49, 0, 31, 6, 7, 0]), np.array([], "int64")):
        assert np.array_equal(rows[indices], x[indices])
        assert np.array_equal(rows.labels(indices), y[indices])
    pictures = ParquetRows(folder, ("image",), shape=(2, 3))
    assert pictures.spec == ((2, 3), "uint8")
    assert np.array_equal(pictures[np.array([40, 3])], images[[40, 3]].reshape(-1, 2, 3))
    assert pictures.labels(np.arange(3)) is None
    assert ParquetRows(folder / "1.parquet", ("b",)).spec == ((1,), "float32")


def test_what_parquet_rows_refuse(table):
    folder, *_ = table
    with pytest.raises(ValueError, match=r"\['c'\]"):
        ParquetRows(folder, ("a", "c"))
    with pytest.raises(ValueError, match="Expected numbers in column 'image'"):
        ParquetRows(folder)
    texts = folder / "texts"
    texts.mkdir()
    for name, column in {
        "text": ["a", "b"],
        "ragged": [[1, 2], [1, 2, 3, 4]],  # as many numbers as in two rows of three
        "none": [[1, 2], None],
    }.items():
        pq.write_table(pa.table({name: column}), texts / f"{name}.parquet")
        with pytest.raises(ValueError, match=r"Expected (numbers|lists)"):
            ParquetRows(texts / f"{name}.parquet")
    pq.write_table(pa.table({"x": [1.0, None], "y": [1, None]}), texts / "holes.parquet")
    rows = ParquetRows(texts / "holes.parquet", ("x",))
    assert np.isnan(rows[np.arange(2)]).ravel().tolist() == [False, True]
    with pytest.raises(ValueError, match="Expected an integer in every row"):
        ParquetRows(texts / "holes.parquet", ("x",), label="y")
    numbers = pa.array([[1, 2], [3, None]], pa.list_(pa.int16()))
    pq.write_table(pa.table({"x": numbers}), texts / "gaps.parquet")
    with pytest.raises(ValueError, match=r"each place of the lists.*with 1 missing"):
        ParquetRows(texts / "gaps.parquet")
    (folder / "two").mkdir()
    for i, kind in enumerate((pa.uint8(), pa.float32())):  # pixels to 255, and pixels to 1
        column = pa.array([[0, 1]], pa.list_(kind))
        pq.write_table(pa.table({"x": column}), folder / "two" / f"{i}.parquet")
    with pytest.raises(ValueError, match=r"rows of uint8 \(2,\).*float32 \(2,\) in file 2 of 2"):
        ParquetRows(folder / "two")[np.arange(2)]
    (texts / "bad.parquet").write_text("no")
    with pytest.raises(ValueError, match="Expected Parquet files"):
        ParquetRows(texts / "bad.parquet")


@pytest.fixture
def sources(table):
    folder, x, y, _ = table
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    (folder / "images").mkdir()
    for i in range(3):
        PIL.Image.new("L", (4, 3), i * 50).save(folder / "images" / f"{i}.png")
    return {
        "npy": NpyRows(folder / "x.npy", folder / "y.npy"),
        "parquet": ParquetRows(folder, ("a", "b")),
        "images": ImageFolder(folder / "images"),
    }


@pytest.mark.parametrize("kind", ["npy", "parquet", "images"])
def test_sources_travel_small_and_stay_equal(sources, kind):
    rows = sources[kind]
    first = rows[np.arange(3)]
    sent = pickle.dumps(rows)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert again == rows
    assert hash(again) == hash(rows)
    assert np.array_equal(again[np.array([2, 0])], first[[2, 0]])
    assert again.fingerprint() == rows.fingerprint()
    assert again.spec == (first.shape[1:], str(first.dtype))
    assert len(again.names(np.arange(2))) == 2


def test_fingerprints_differ_with_rows_and_settings(sources, table):
    folder, x, y, _ = table
    prints = {rows.fingerprint() for rows in sources.values()}
    prints |= {NpyRows(folder / "x.npy").fingerprint()}
    prints |= {ParquetRows(folder, ("b", "a")).fingerprint()}
    prints |= {ImageFolder(folder / "images", divide_by=255).fingerprint()}
    changed = x.copy()
    changed[1, 1] += 1
    np.save(folder / "other.npy", changed)
    np.save(folder / "labels.npy", (y + 1) % 3)
    prints |= {NpyRows(folder / "other.npy").fingerprint()}
    prints |= {NpyRows(folder / "x.npy", folder / "labels.npy").fingerprint()}
    PIL.Image.new("L", (4, 3)).save(folder / "images" / "more.png")
    prints |= {ImageFolder(folder / "images").fingerprint()}
    assert len(prints) == 9
    (folder / "raw").mkdir()
    for level in (0, 9):  # files of the same name and size
        PIL.Image.new("L", (4, 3), level).save(folder / "raw" / "0.bmp")
        prints |= {ImageFolder(folder / "raw").fingerprint()}
    assert len(prints) == 11
    long = np.zeros((2000, 2))
    np.save(folder / "long.npy", long)
    before = NpyRows(folder / "long.npy").fingerprint()
    long[1] = 1  # one row of 2,000
    np.save(folder / "long.npy", long)
    assert NpyRows(folder / "long.npy").fingerprint() != before


def test_what_arrays_and_folders_refuse(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    np.save(tmp_path / "y.npy", np.ones(2, int))
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "empty").mkdir()
    for make, message in (
        (lambda: NpyRows(tmp_path / "none.npy"), "does not exist"),
        (lambda: NpyRows(tmp_path / "x.npz"), "archive"),
        (lambda: NpyRows(tmp_path / "text.npy"), "Expected numbers"),
        (lambda: NpyRows(tmp_path / "x.npy", tmp_path / "y.npy"), "Expected 3 labels"),
        (lambda: ImageFolder(tmp_path / "empty"), "Expected images"),
        (lambda: ImageFolder(tmp_path / "x.npy"), "Expected a folder of images"),
        (lambda: ImageFolder(tmp_path / "empty", divide_by=0), "divide_by=0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
