"""`.npz` files, and tables in CSV and Parquet files."""

import builtins
import warnings

import numpy as np
import pytest

from tfp_bayes.datasets import load
from tfp_bayes.datasets.dataset import has_classes

RNG = np.random.default_rng(0)


def images(count, *shape):
    return RNG.integers(0, 256, (count, *shape), dtype="uint8")


def test_npz_of_keras(tmp_path):
    arrays = {
        "x_train": images(6, 5, 4),
        "y_train": np.array([0, 1, 2, 0, 1, 2], "uint8"),
        "x_test": images(3, 5, 4),
        "y_test": np.array([2, 1, 0], "uint8"),
    }
    np.savez(tmp_path / "a.npz", **arrays, class_names=np.array(["ox", "cat", "owl"]))
    data = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.x_train[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(data.y_test, arrays["y_test"])
    assert (data.x_train.dtype, data.y_train.dtype, data.x_test.shape) == (
        "uint8",
        "int64",
        (3, 5, 4, 1),
    )
    assert data.class_names == ("ox", "cat", "owl")
    assert data.x_validation is None
    assert load(str(tmp_path / "a.npz"), image_size=(10, 8)).x_test.shape == (3, 10, 8, 1)


def test_npz_with_an_empty_test_set(tmp_path):
    arrays = {"x_train": images(2, 4, 4), "y_train": np.array([0, 1])}
    np.savez(tmp_path / "a.npz", **arrays, x_test=images(0, 4, 4), y_test=np.zeros(0, int))
    data = load(tmp_path / "a.npz")
    assert (data.class_names, len(data.x_test)) == (("0", "1"), 0)


@pytest.mark.parametrize("several", [False, True])
def test_npz_of_medmnist(tmp_path, several):
    def labels(count):
        return np.arange(3 * count).reshape(count, 3) % 2 if several else np.arange(count)[:, None]

    arrays = {}
    for split, count in {"train": 6, "val": 3, "test": 4}.items():
        arrays |= {f"{split}_images": images(count, 5, 5, 3), f"{split}_labels": labels(count)}
    np.savez_compressed(tmp_path / "pathmnist.npz", **arrays)
    data = load(tmp_path / "pathmnist.npz")
    np.testing.assert_array_equal(data.x_validation, arrays["val_images"])
    np.testing.assert_array_equal(data.y_train, labels(6) if several else np.arange(6))
    np.testing.assert_array_equal(data.y_test, labels(4) if several else np.arange(4))
    assert data.class_names == tuple("012") if several else tuple("012345")


def test_npz_without_tests_or_labels(tmp_path):
    x = np.arange(40, dtype="float64").reshape(20, 2)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)
    data = load(tmp_path / "a.npz")
    assert np.bincount(data.y_test).tolist() == [2, 2]
    assert sorted([*data.x_train[:, 0], *data.x_test[:, 0]]) == x[:, 0].tolist()
    assert ((data.x_test[:, 0] / 2 % 2) == data.y_test).all()
    np.savez(tmp_path / "b.npz", x=x)
    assert not load(tmp_path / "b.npz").is_labelled


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, r"x_train and y_train.*Received: \['a'\]"),
        ({"x": images(3, 4, 4, 4, 1), "y": np.arange(3)}, "channel axis comes last"),
        ({"x": images(3, 4, 4, 28), "y": np.arange(3)}, "cut volumes into slices"),
        ({"x": images(3, 4, 4), "y": np.arange(2)}, "labels of the 3 examples"),
        ({"x": images(3, 4, 4), "y": np.array([-1, 0, 1])}, "from -1 to 1"),
        ({"x": images(3, 4, 4), "y": np.array([0.5, 0, 1])}, "integer labels"),
        ({"x": np.array([[np.nan]] * 3), "y": np.arange(3)}, "finite numbers in x"),
        ({"x": np.array([{}, {}]), "y": np.arange(2)}, "arrays of objects are not supported"),
        (
            {"x_train": images(3, 4, 4), "y_train": np.arange(3), "x_test": images(3, 4, 4)},
            "3 examples for test.*Received: none",
        ),
        (
            {"x_train": images(3, 4, 4), "x_test": images(2, 4, 4), "y_test": np.arange(2)},
            "3 examples for train.*Received: none",  # only x_train alone is a pool
        ),
        (
            {
                "x_train": images(3, 4, 4),
                "y_train": np.arange(3),
                "x_test": images(3, 5, 4),
                "y_test": np.arange(3),
            },
            "the same shape in all sets",
        ),
        (
            {"x": images(2, 4, 4), "y": np.array([0, 2**63], "uint64")},
            "from 0 to 9223372036854775808",
        ),
        ({"x": images(0, 4, 4), "y": np.zeros(0, int)}, "Expected training examples"),
        ({"x": images(6, 4, 4), "y": np.arange(6) % 2 + 1}, "numbers from 1 to 2, so class 0"),
        (
            {
                "x_train": images(3, 4, 4),
                "y_train": np.arange(3),
                "x_test": images(3, 4, 4),
                "y_test": np.eye(3, dtype=int),
            },
            r"the same form in all sets.*'test': \(3, 3\)",
        ),
    ],
)
def test_npz_that_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.npz")


def test_npz_that_is_damaged(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=images(50, 9, 9), y=np.arange(50))
    content = path.read_bytes()
    for damaged in (b"", b"PK", content[:500], content[:300] + b"\0" * 50 + content[350:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"plain arrays in .*a.npz"):
            load(path)


ROWS = [
    *["size,color,weight", "1.5,red,10.5", "2,blue,11", "-3e2,red,12", "0,green,9.25", "7,red,8"]
]


def write(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def test_table_for_regression(tmp_path):
    data = load(write(tmp_path / "t.csv", ROWS), target="weight")
    assert data.feature_names == ("size", "color=blue", "color=green", "color=red")
    assert (data.x_train.dtype, data.y_train.dtype) == ("float32", "float32")
    assert data.class_names == ()
    both = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    assert len(data.y_test) == 1
    found = {float(y): x.tolist() for x, y in zip(*both)}
    assert found == {
        10.5: [1.5, 0, 0, 1],
        11.0: [2, 1, 0, 0],
        12.0: [-300, 0, 0, 1],
        9.25: [0, 0, 1, 0],
        8.0: [7, 0, 0, 1],
    }
    sources = [*data.sources["train"], *data.sources["test"]]
    assert sorted(sources) == [f"row {i}" for i in range(1, 6)]


def test_table_for_classification(tmp_path):
    rows = [*ROWS, "3,red,4.5", "4,blue,5", "5,green,5.5"]
    data = load(write(tmp_path / "t.csv", rows), target="color")
    assert data.class_names == ("blue", "green", "red")
    assert data.feature_names == ("size", "weight")
    size = {1.5: 2, 2: 0, -300: 2, 0: 1, 7: 2, 3: 2, 4: 0, 5: 1}
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert [size[row[0]] for row in x.tolist()] == y.tolist()


def test_integers_may_be_either(tmp_path):
    path = write(tmp_path / "t.csv", ["a,stars", *[f"{i},{i % 3}" for i in range(12)]])
    with pytest.raises(ValueError, match=r"'classification' or 'regression' for `task`"):
        load(path, target="stars")
    assert load(path, target="stars", task="classification").class_names == ("0", "1", "2")
    assert load(path, target="stars", task="regression").y_train.dtype == "float32"


def test_names_of_classes_are_those_expected_or_as_many_numbers():
    expected = ("cat", "owl")
    assert all(has_classes(names, expected) for names in (["cat", "owl"], ("0", "1"), ()))
    for names in (("owl", "cat"), ("cat",), ("0",), ("0", "1", "2"), ("1", "0")):
        assert not has_classes(names, expected)


def test_two_spellings_of_a_class_are_refused(tmp_path):
    path = write(
        tmp_path / "t.csv", ["a,stars", *[f"{i},{i % 2}{i % 3 * '.0'[:2]}" for i in range(9)]]
    )
    with pytest.raises(ValueError, match=r"Received: the classes '0' and '0\.0'"):
        load(path, target="stars", task="classification")
    for names, found in ((["Cat", "cat"], None), (["A", "a"], ("A", "a"))):
        rows = ["a,animal", *[f"{i},{names[i % 2]}" for i in range(10)]]
        path = write(tmp_path / "t.csv", rows)
        if found is None:
            with pytest.raises(ValueError, match="'Cat' and 'cat', which are the same word"):
                load(path, target="animal")
        else:
            assert load(path, target="animal").class_names == found


def test_two_features_of_the_same_name_are_refused(tmp_path):
    rows = ["size,size=small,y", *[f"{'small' if i % 2 else 'large'},{i},{i}.5" for i in range(9)]]
    with pytest.raises(ValueError, match="two of the name 'size=small'"):
        load(write(tmp_path / "t.csv", rows), target="y")


def test_split_and_group_of_a_table(tmp_path):
    rows = [f"{i},p{i // 3},{i / 2 + 0.25}" for i in range(30)]
    path = write(tmp_path / "t.csv", ["a,patient,y", *rows])
    data = load(path, target="y", group="patient")
    assert data.feature_names == ("a",)
    train, test = (set((x[:, 0] // 3).tolist()) for x in (data.x_train, data.x_test))
    assert test
    assert not train & test
    rows = [f"{i},{i}.5,{'val' if i > 6 else 'train'}" for i in range(9)]
    data = load(write(tmp_path / "u.csv", ["a,y,split", *rows]), target="y")
    assert data.y_test.tolist() == [7.5, 8.5]


def test_missing_cells_are_named_or_counted(tmp_path):
    rows = [*ROWS, "NA,red,3.5", "1,,4.5", "2,red,", "3,red,4"]
    path = write(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match=r"row 6: no value in 'size'; row 7: no value in 'color'"):
        load(path, target="weight")
    with pytest.warns(UserWarning, match="Left out 3 of"):
        data = load(path, target="weight", skip_bad=True)
    assert len(data.x_train) + len(data.x_test) == 6
    assert [each.partition(":")[0] for each in data.skipped] == ["row 6", "row 7", "row 8"]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (ROWS, {}, r"`target`. Received: target=None. Hint: one of \['size', 'color', 'weight'\]"),
        (ROWS, {"target": "wieght"}, "target='wieght'. Hint: its columns are"),
        (ROWS, {"target": "color", "task": "regression"}, "Expected numbers in column 'color'"),
        (ROWS, {"target": "color", "task": "guess"}, r"for `task`. Received: task='guess'"),
        (ROWS, {"target": "weight", "image_size": (2, 2)}, "no `image_size` with a table"),
        (ROWS[:1], {"target": "weight"}, "0 complete rows of 0"),
        (["a;y", *[f"{i},5;{i},5" for i in range(60)]], {"target": "y"}, "decimal point"),
        (["a;y", *[f"{i};{i},5" for i in range(6)]], {"target": "y"}, "with a decimal point, not"),
        (["a,y", "1e39,1.5", "2,2.5"], {"target": "y"}, "float32 can hold in column 'a'.*'1e39'"),
        (["a,y", "1,1.5", "2,-1e39"], {"target": "y"}, "float32 can hold in column 'y'"),
        (
            ["a;y", *[f"{i % 5},{i % 4};{'uv'[i % 2]}" for i in range(60)]],
            {"target": "y"},
            "column 'a'.*'0,0'.* a decimal point, not a comma",
        ),
        (
            ["a,y", *[f'"{i % 5 + 1},000",{i}.5' for i in range(60)]],
            {"target": "y"},
            "column 'a'.*'1,000'.*separators of thousands",
        ),
        (
            ["a,y", *[f"{1_700_000_000 + 17 * i},{i}.5" for i in range(20)]],
            {"target": "y"},
            "differences float32 can hold in column 'a'.*1700000000 to 1700000323.*by up to 6",
        ),
        (["a,b", "1"], {"target": "b"}, "Expected 2 cells in line 2"),
        (["y", "1.5"], {"target": "y"}, "columns of features"),
        ([",a,y", "0,1,1.5", "1,2,2.5"], {"target": "y"}, "name for each column.* index=False"),
        (
            ["a,y", *[f"{i if i else 'inf'},{i}.5" for i in range(20)]],
            {"target": "y"},
            "Received: 'inf', and other texts in 0 cells, among 19 numbers",
        ),
        (
            ["a,y", *[f"2020-01-{i},{i}.5" for i in range(10, 25)]],
            {"target": "y"},
            "15 different texts in 15 rows",
        ),
        (
            ["a,b,y", "1,0,x", "2,0,y", "3,0,z"],
            {"target": "y", "group": "a"},
            "every class left in training",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path, rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "t.csv", rows), **arguments)


def test_columns_that_float32_holds(tmp_path):
    """Constant ones, ones that differ by rounding errors only, and large numbers far apart."""
    rows = [f"0.1,{0.3 if i % 2 else 0.1 + 0.2},{10**9 * i},{i}.5" for i in range(10)]
    data = load(write(tmp_path / "t.csv", ["a,b,c,y", *rows]), target="y")
    assert data.x_train.shape == (8, 3)
    assert len(np.unique(data.x_train[:, 2])) == 8


def test_parquet_is_as_csv(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "size": [1.5, 2.0, None, 4.0, 5.0, 6.0],
        "color": ["red", "blue", "red", "red", "blue", "red"],
        "alive": [True, False, True, True, False, True],
        "weight": [1.25, 2.5, 3.5, 4.5, 5.5, 6.5],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    rows = [",".join("" if c is None else str(c) for c in row) for row in zip(*columns.values())]
    write(tmp_path / "t.csv", [",".join(columns), *rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            load(tmp_path / f"t.{end}", target="weight", skip_bad=True)
            for end in ("parquet", "csv")
        )
    for a, b in zip(one[:4], other[:4]):
        np.testing.assert_array_equal(a, b)
    assert one.feature_names == other.feature_names
    assert len(one.skipped) == 1
    parquet.write_table(arrow.table({"a": [[1, 2]], "y": [1.5]}), tmp_path / "n.parquet")
    with pytest.raises(ValueError, match=r"numbers or text in column 'a'.*list"):
        load(tmp_path / "n.parquet", target="y")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="Expected a Parquet file"):
        load(tmp_path / "bad.parquet", target="y")


def test_parquet_names_its_extra(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"")
    original = builtins.__import__

    def without(name, *arguments, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return original(name, *arguments, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"tfp_bayes\[parquet\]"):
        load(tmp_path / "t.parquet", target="y")
