"""Folders of images: layouts, unusual and damaged files, order, and images read on demand."""

import numpy as np
import PIL.Image
import pytest
from photos import class_folders, picture, save

from tfp_bayes import datasets
from tfp_bayes.datasets import ImageFiles, load
from tfp_bayes.datasets.image_files import UnreadableImageError


def in_sets(data):
    """Returns {source: (pixels, class name)} of all sets, and checks that no source is repeated."""
    found = {}
    for split, (x, y) in {
        "train": (data.x_train, data.y_train),
        "validation": (data.x_validation, data.y_validation),
        "test": (data.x_test, data.y_test),
    }.items():
        for i, name in enumerate(data.sources.get(split, ())):
            assert name not in found
            found[str(name)] = (x[i], data.class_names[y[i]])
    return found


@pytest.mark.parametrize("as_text", [True, False])
def test_one_folder_for_each_class(tmp_path, as_text):
    pixels = class_folders(tmp_path / "photos", {"owl": 10, "cat": 5})
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("beside images")
    (tmp_path / "photos" / ".DS_Store").write_bytes(b"x")
    path = tmp_path / "photos"
    data = load(str(path) if as_text else path)
    assert data.class_names == ("cat", "owl")
    assert np.bincount(data.y_test).tolist() == [1, 2]  # a fifth of each
    assert (data.x_train.dtype, data.y_train.dtype) == ("uint8", "int64")
    found = in_sets(data)
    assert set(found) == set(pixels)
    for name, (image, label) in found.items():
        np.testing.assert_array_equal(image, pixels[name])
        assert label == name.partition("/")[0]
    assert list(data.sources["train"]) == sorted(data.sources["train"])
    again = load(path)
    np.testing.assert_array_equal(again.x_train, data.x_train)
    assert data.is_labelled


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    class_folders(tmp_path, {"10": 2, "2": 2, "1": 2})
    assert load(tmp_path).class_names == ("1", "2", "10")


def test_negative_classes_are_in_their_order(tmp_path):
    class_folders(tmp_path, {"10": 2, "-1": 2, "2": 2, "0": 2})
    assert load(tmp_path).class_names == ("-1", "0", "2", "10")


@pytest.mark.parametrize("names", [("train", "test", "extra"), ("seg_train", "seg_test")])
def test_sets_are_not_taken_for_classes(tmp_path, names):
    for name in names:
        class_folders(tmp_path / name, {"cat": 2, "owl": 2})
    with pytest.raises(ValueError, match=r"one folder per class.*seem to be sets.*labels=False"):
        load(tmp_path)
    assert len(load(tmp_path, labels=False).x_train) == 4 * len(names)


def test_a_class_may_have_the_name_of_a_set(tmp_path):
    class_folders(tmp_path, {"train": 2, "bus": 2})
    assert load(tmp_path).class_names == ("bus", "train")


def test_sets_in_folders(tmp_path):
    pixels = {}
    for split in ("train", "val", "test"):
        part = class_folders(tmp_path / split, {"cat": 3, "owl": 2})
        pixels |= {f"{split}/{name}": image for name, image in part.items()}
    data = load(tmp_path)
    assert set(in_sets(data)) == set(pixels)
    assert [len(y) for y in (data.y_train, data.y_validation, data.y_test)] == [5, 5, 5]
    assert all(name.startswith("val/") for name in data.sources["validation"])


def test_a_validation_set_alone_is_the_test_set(tmp_path):
    for split in ("train", "valid"):
        class_folders(tmp_path / split, {"cat": 3, "owl": 2})
    data = load(tmp_path)
    assert all(name.startswith("valid/") for name in data.sources["test"])
    assert data.x_validation is None


def test_no_labels(tmp_path):
    pixels = {f"{i}.png": save(tmp_path / f"{i}.png", picture(i)) for i in (2, 0, 1)}
    data = load(tmp_path)
    assert not data.is_labelled
    assert data.sources["train"].tolist() == ["0.png", "1.png", "2.png"]
    np.testing.assert_array_equal(data.x_train, [pixels[f"{i}.png"] for i in range(3)])
    assert (len(data.y_train), data.class_names, len(data.x_test)) == (0, (), 0)


def test_albums_are_no_classes_if_so_wished(tmp_path):
    pixels = class_folders(tmp_path, {"june": 2, "july": 2})
    data = load(tmp_path, labels=False)
    assert data.sources["train"].tolist() == sorted(pixels)
    assert not data.is_labelled


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_in_a_table(tmp_path, separator):
    pixels = {f"{i}.png": save(tmp_path / "scans" / f"{i}.png", picture(i)) for i in range(6)}
    rows = ["id,diagnosis,patient,split"]
    rows += [f"scans/{i},{'ill' if i % 2 else 'well'},p{i // 2},TRAIN" for i in range(4)]
    rows += ["scans\\4.png,well,p7,test", "./scans/5.png,ill,p7,test"]
    text = "\n".join(rows).replace(",", separator)
    (tmp_path / "labels.csv").write_text("\ufeff" + text)
    data = load(tmp_path, group="patient")
    assert data.class_names == ("ill", "well")
    assert data.sources["test"].tolist() == ["scans/4.png", "scans/5.png"]
    found = in_sets(data)
    assert {name: label for name, (_, label) in found.items()} == {
        f"scans/{i}.png": "ill" if i % 2 else "well" for i in range(6)
    }
    for name, (image, _) in found.items():
        np.testing.assert_array_equal(image, pixels[name.removeprefix("scans/")])


def table(root, rows, count=4):
    for i in range(count):
        save(root / f"{i}.png", picture(i))
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def test_missing_labels_are_named_or_counted(tmp_path):
    table(tmp_path, ["file,label", "0.png,cat", "1.png,", "2.png,owl", "9.png,owl"])
    with pytest.raises(ValueError, match=r"9.png: in labels.csv, but no such image") as error:
        load(tmp_path)
    assert "1.png: no label" in str(error.value)
    assert "3.png: no row" in str(error.value)
    with pytest.warns(UserWarning, match="Left out 3 of"):
        data = load(tmp_path, skip_bad=True)
    assert len(data.skipped) == 3
    assert sorted(in_sets(data)) == ["0.png", "2.png"]
    table(tmp_path, ["file,label", "0.png,cat", "1.png,NA", "2.png,nan", "3.png,none"])
    with pytest.raises(ValueError, match=r"Received: 1.png: no label in.*; 2.png: no label in"):
        load(tmp_path)
    with pytest.warns(UserWarning, match="Left out 2 of"):
        assert load(tmp_path, skip_bad=True).class_names == ("cat", "none")


def test_rows_that_contradict_are_refused(tmp_path):
    table(tmp_path, ["file,label", "0.png,cat", "0.png,owl", "1.png,cat"])
    with pytest.raises(ValueError, match=r"one row per file.*'0.png' twice"):
        load(tmp_path, skip_bad=True)


def test_a_group_is_never_divided(tmp_path):
    names = [f"{i}.png,{'ab'[i % 2]},s{i // 4}" for i in range(40)]
    table(tmp_path, ["file,label,smear", *names], count=40)
    data = load(tmp_path, target="label", group="smear")
    smear = {f"{i}.png": i // 4 for i in range(40)}
    train, test = ({smear[name] for name in data.sources[s]} for s in ("train", "test"))
    assert not train & test
    assert 6 <= len(data.y_test) <= 12
    rows = [f"{i}.png,a,s{i // 4},{'train' if i else 'test'}" for i in range(40)]
    table(tmp_path, ["file,label,smear,split", *rows[:-1], "39.png,b,s9,train"], count=0)
    with pytest.raises(ValueError, match=r"each group in one set. Received: 's0' in"):
        load(tmp_path, group="smear")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,b", "x,y"], "with the names of files"),
        (["file,one,two", "0.png,a,b"], r"`target`.*one of \['one', 'two'\]"),
        (["file,label", "0.png,cat,3"], "Expected 2 cells in line 2"),
        (["file,file", "0.png,cat"], "unique column names"),
        (["file,label,split", "0.png,cat,monday"], r"'split'.*\['monday'\]"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, rows, message):
    table(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_layouts_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected images in .*Received: none"):
        load(tmp_path)
    class_folders(tmp_path, {"cat": 2})
    with pytest.raises(ValueError, match=r"at least two classes.*\['cat'\].*labels=False"):
        load(tmp_path)
    class_folders(tmp_path, {"owl": 2})
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"folder of each class. Received: none in \['dog'\]"):
        load(tmp_path)
    (tmp_path / "dog").rmdir()
    save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"Received: loose.png"):
        load(tmp_path)
    (tmp_path / "loose.png").unlink()
    with pytest.raises(ValueError, match="no `task`"):
        load(tmp_path, task="regression")
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "typo")
    with pytest.raises(ValueError, match="no `channels` with the data set 'mnist'"):
        load("mnist", channels=3)


def odd(root, kind):
    """Writes one image that differs from the others; returns how an error describes it."""
    path = root / "a" / f"odd-{kind}.png"
    image = PIL.Image.fromarray(picture(5))
    if kind == "palette":
        image.quantize(8).save(path, transparency=0)
        return "transparency"
    if kind == "cmyk":
        path = path.with_suffix(".jpg")
        image.resize((7, 6)).convert("CMYK").save(path)
        return "6 x 7, CMYK"
    if kind == "gray":
        image.convert("L").save(path)
        return "gray, 1 channel"
    if kind == "rotated":
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        path = path.with_suffix(".jpg")
        image.save(path, exif=exif)
        return "8 x 6"
    return None


@pytest.mark.parametrize("kind", ["palette", "cmyk", "gray", "rotated"])
def test_odd_files_are_named_and_can_be_converted(tmp_path, kind):
    class_folders(tmp_path, {"a": 3, "b": 3})
    words = odd(tmp_path, kind)
    with pytest.raises(ValueError, match=rf"most with 6 x 8 pixels.*odd-{kind}.*{words}"):
        load(tmp_path)
    data = load(tmp_path, image_size=(6, 8), channels=3)
    assert len(in_sets(data)) == 7


def test_colors_survive(tmp_path):
    """A plain color is the same in every file format, and transparency becomes white."""
    color = PIL.Image.new("RGB", (8, 6), (200, 40, 90))
    color.save(tmp_path / "1.png")
    color.quantize(4).save(tmp_path / "2.png")
    color.convert("CMYK").save(tmp_path / "3.tif")
    color.save(tmp_path / "4.jpg", quality=100, subsampling=0)
    color.convert("RGBA").save(tmp_path / "5.png")
    PIL.Image.new("RGBA", (8, 6), (0, 0, 0, 0)).save(tmp_path / "6.png")
    PIL.Image.new("L", (8, 6), 77).save(tmp_path / "7.png")
    x = load(tmp_path, channels=3).x_train.astype("int64")
    assert np.abs(x[:5] - [200, 40, 90]).max() <= 2
    assert (x[5] == 255).all()
    assert (x[6] == 77).all()
    gray = load(tmp_path, channels=1).x_train
    assert gray.shape == (7, 6, 8, 1)
    assert gray[6, 0, 0, 0] == 77


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(tmp_path, orientation, kind):
    """Each EXIF orientation is applied as NumPy does it."""
    upright = picture(3)
    store = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ascontiguousarray(store(upright))).save(
        tmp_path / f"a.{kind}", exif=exif
    )
    np.testing.assert_array_equal(load(tmp_path).x_train[0], upright)


def damage(root, kind):
    path = root / "a" / f"{kind}.png"
    save(path, picture(8, size=(60, 80)))
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "half":  # with an intact header
        path.unlink()
        path = path.with_suffix(".jpg")
        save(path, picture(8, size=(60, 80)))
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no image at all")
    elif kind == "sixteen":
        PIL.Image.fromarray(np.full((6, 8), 40000, "uint16")).save(path)
    elif kind == "animated":
        path.unlink()
        frames = [PIL.Image.fromarray(picture(i)) for i in range(3)]
        frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
    elif kind == "unknown":
        path.rename(path.with_suffix(".heic"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "truncated"),
        ("half", "truncated"),
        ("empty", "an empty file"),
        ("text", "not an image format that Pillow knows"),
        ("sixteen", "mode 'I;16', which do not fit in 8 bits"),
        ("animated", "several frames"),
        ("unknown", "not an image"),
    ],
)
def test_damaged_files_are_named_or_counted(tmp_path, kind, reason):
    pixels = class_folders(tmp_path, {"a": 3, "b": 3}, size=(60, 80))
    damage(tmp_path, kind)
    with pytest.raises(ValueError, match=f"{kind}.*{reason}"):
        load(tmp_path)
    with pytest.warns(UserWarning, match=f"Left out 1 of .*a/{kind}"):
        data = load(tmp_path, skip_bad=True)
    assert set(in_sets(data)) == set(pixels)
    assert len(data.skipped) == 1
    assert reason in data.skipped[0]


def test_images_stay_in_their_files(tmp_path):
    pixels = class_folders(tmp_path, {"cat": 8, "owl": 8})
    data = load(tmp_path, lazy=True)
    whole = load(tmp_path, lazy=False)
    assert isinstance(data.x_train, ImageFiles)
    assert data.x_train.shape == whole.x_train.shape == (12, 6, 8, 3)
    assert data.x_train.names.tolist() == data.sources["train"].tolist()
    for key in (slice(3, 7), np.array([5, 0, 0, -1]), 2, np.arange(12) % 2 == 0, slice(None)):
        np.testing.assert_array_equal(data.x_train[key], whole.x_train[key])
    assert data.x_train[[]].shape == (0, 6, 8, 3)
    with pytest.raises(IndexError):
        data.x_train[12]
    np.testing.assert_array_equal(data.x_train[0], pixels[str(data.x_train.names[0])])


def test_a_file_that_is_damaged_later_is_named(tmp_path):
    class_folders(tmp_path, {"cat": 3, "owl": 3})
    images = load(tmp_path, lazy=True).x_train
    images.paths[1].write_bytes(images.paths[1].read_bytes()[:-40])
    with pytest.raises(UnreadableImageError, match=str(images.paths[1])):
        images[:]


def test_large_photographs_are_averaged_not_skipped(tmp_path):
    """A JPEG decoded at a reduced size is close to the full image resized."""
    x = np.linspace(0, 40, 160)
    waves = 128 + 100 * np.sin(x)[:, None] * np.cos(x[:120])[None]
    image = PIL.Image.fromarray(waves.astype("uint8")).convert("RGB")
    image.save(tmp_path / "a.jpg", quality=95)
    small = load(tmp_path, image_size=(32, 24)).x_train[0].astype("float64")
    whole = np.asarray(image.resize((24, 32), PIL.Image.Resampling.BILINEAR), "float64")
    assert np.abs(small - whole).max() < 6


def test_learner_and_predictor_take_images_in_files(tmp_path):
    import keras

    import tfp_bayes

    class_folders(tmp_path, {"cat": 8, "owl": 8}, size=(8, 8), channels=1)
    data, whole = load(tmp_path, lazy=True), load(tmp_path)
    model = tfp_bayes.BayesianCNN((8, 8, 1), 2, seed=0, num_samples=2)
    model.compile("adam", "sparse_categorical_crossentropy")
    lazy, kept = (
        model.predict_uncertainty(x, num_samples=2, seed=0, batch_size=5).mean
        for x in (data.x_train, whole.x_train)
    )
    np.testing.assert_array_equal(lazy, kept)
    batches = data.x_train.as_dataset(data.y_train).batch(4)
    for number, (x, y) in enumerate(batches):
        np.testing.assert_array_equal(x, whole.x_train[4 * number : 4 * number + 4])
        np.testing.assert_array_equal(y, whole.y_train[4 * number : 4 * number + 4])
    keras.utils.set_random_seed(0)
    model.fit(batches, verbose=0)
    learner = tfp_bayes.ActiveLearner(
        model, data.x_train, data.y_train, initial=[0, 11], query={"size": 2}, refit={"steps": 1}
    )
    assert [row.num_acquired for row in learner.run(1)] == [0, 2]


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos", {"cat": 2, "owl": 2})
    (tmp_path / "mnist").mkdir()
    assert len(load("photos").x_train) == 2 * 2
    assert len(load("./photos").x_train) == 2 * 2
    assert len(load("mnist").x_train) == 60_000  # a packaged name has priority over a folder
    with pytest.raises(ValueError, match="Expected images in mnist"):
        load("mnist/")
    from tfp_bayes._plumbing import dataset_names
    from tfp_bayes._plumbing.dataset_names import as_path, check_dataset_name
    from tfp_bayes.datasets import packaged, registry

    assert set(dataset_names._OWN) == set(packaged.LOADERS)  # without importing the loaders
    assert set(dataset_names._ENDINGS) == set(registry._FILES)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "eurosat").mkdir()
    assert as_path("cifar10") is None
    assert as_path("eurosat") is None
    assert as_path("eurosat/rgb") is None
    check_dataset_name("photos")
    with pytest.raises(ValueError, match=r"existing folder or file for `name`.*'phots/'"):
        check_dataset_name("phots/")
    assert datasets.load is load
