"""`tfp-bayes predict` writes a table sorted by uncertainty and a contact sheet of images."""

import csv
import json

import keras
import numpy as np
import PIL.Image
import pytest
from photos import picture, save

import tfp_bayes
from tfp_bayes import cli
from tfp_bayes.layers import MCDropout

NAMES = ["ox", "cat, tame", "owl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models and 30 photographs, some of them in a subfolder."""
    folder = tmp_path_factory.mktemp("predict")
    keras.utils.set_random_seed(0)
    tfp_bayes.BayesianCNN((8, 8, 3), 3, num_samples=7, seed=0).save(folder / "model.keras")
    inputs = keras.Input((None, None, 1))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inputs))
    outputs = keras.layers.Dense(3, "softmax")(MCDropout(0.5)(hidden))
    keras.Model(inputs, outputs).save(folder / "plain.keras")
    (folder / "class_names.json").write_text(json.dumps(NAMES))
    for i in range(30):
        save(folder / "photos" / ("june" if i % 3 else "") / f"{i}.png", picture(i, size=(8, 8)))
    return folder


def run(folder, *arguments, model="model.keras", photos="photos"):
    out = folder / "out" / "table.csv"
    done = cli.main(
        ["predict", str(folder / model), str(folder / photos), "--out", str(out), *arguments]
    )
    if done:
        return None
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_is_what_python_says(folder, capsys, monkeypatch):
    monkeypatch.setattr("tfp_bayes.commands.predict.BATCH", 12)
    rows = run(folder, "--num-samples", "5", "--seed", "3")
    error = capsys.readouterr().err
    assert "Class names are from" in error
    (first,) = [row for row in rows if f"{row['file']}: " in error]  # shown before the others
    assert f": {first['class']}, {float(first['confidence']):.0%}" in error
    model = keras.models.load_model(folder / "model.keras")
    assert len(rows) == 30
    files = [row["file"] for row in rows]
    x = np.stack([np.asarray(PIL.Image.open(folder / "photos" / file)) for file in files])
    p = model.predict_uncertainty(x, num_samples=5, seed=3)
    assert [row["class"] for row in rows] == [NAMES[k] for k in p.mean.argmax(1)]
    for name, expected in {
        "confidence": p.mean.max(1),
        "predictive_entropy": p.predictive_entropy,
        "expected_entropy": p.expected_entropy,
        "mutual_information": p.mutual_information,
    }.items():
        found = [float(row[name]) for row in rows]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert (np.diff(p.predictive_entropy) <= 0).all()
    assert sum(file.startswith("june/") for file in files) == 20
    with PIL.Image.open(folder / "out" / "table.png") as sheet:
        assert np.asarray(sheet).std() > 20
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["table.csv", "table.png"]


def test_order_and_names(folder):
    rows = run(folder, "--sort-by", "confidence", "--classes", "a,b,c", "--num-samples", "2")
    confidence = [float(row["confidence"]) for row in rows]
    assert confidence == sorted(confidence)
    assert {row["class"] for row in rows} <= {"a", "b", "c"}
    rows = run(folder, "--sort-by", "mutual_information", "--num-samples", "2")
    doubt = [float(row["mutual_information"]) for row in rows]
    assert doubt == sorted(doubt, reverse=True)


def test_images_that_do_not_fit(folder, capsys):
    save(folder / "mixed" / "a.png", picture(0, size=(8, 8)))
    save(folder / "mixed" / "b.png", picture(1, size=(12, 20)))
    save(folder / "mixed" / "c.png", picture(2, size=(8, 8), channels=1))
    assert run(folder, photos="mixed") is None
    error = capsys.readouterr().err
    assert "Expected images of 8 x 8 x 3 (height, width, channels)" in error
    assert "2 of 3 of another shape, such as 12 x 20 x 3 of b.png" in error
    assert "--resize" in error
    assert len(run(folder, "--resize", "--num-samples", "2", photos="mixed")) == 3
    assert "Resizing to 8 x 8 x 3: 2 of 3" in capsys.readouterr().err


def test_a_model_of_any_size_that_scales_nothing(folder, capsys):
    rows = run(folder, "--num-samples", "4", "--divide-by", "255", "--resize", model="plain.keras")
    assert "Note" not in capsys.readouterr().err
    model = keras.models.load_model(folder / "plain.keras")
    gray = [
        np.asarray(PIL.Image.open(folder / "photos" / row["file"]).convert("L")) for row in rows
    ]
    p = tfp_bayes.Predictor(model).predict_uncertainty(
        np.stack(gray)[..., None].astype("float32") / 255, num_samples=4, seed=0
    )
    found = [float(row["predictive_entropy"]) for row in rows]
    np.testing.assert_allclose(found, p.predictive_entropy, rtol=1e-4)
    run(folder, "--num-samples", "2", "--resize", model="plain.keras")
    assert "no layer that scales pixels" in capsys.readouterr().err


def test_damaged_files_are_named_or_left_out(folder, capsys):
    for i in range(3):
        save(folder / "damaged" / f"{i}.png", picture(i, size=(8, 8)))
    path = folder / "damaged" / "1.png"
    path.write_bytes(path.read_bytes()[:-60])
    (folder / "out" / "table.csv").unlink(missing_ok=True)
    assert run(folder, photos="damaged") is None
    assert "1.png" in capsys.readouterr().err
    assert not (folder / "out" / "table.csv").exists()
    rows = run(folder, "--skip-bad", "--num-samples", "2", photos="damaged")
    assert sorted(row["file"] for row in rows) == ["0.png", "2.png"]
    said = capsys.readouterr()
    assert "Left out 1.png" in said.err
    assert "2 images, 1 left out" in said.out


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {"model": "none.keras"}, "Expected a .keras file for MODEL"),
        ([], {"photos": "nowhere"}, "Expected a folder of images"),
        (["--classes", "a,b"], {}, "Expected 3 different names"),
        (["--classes", "a,b,a"], {}, "Expected 3 different names"),
        (["--classes", "a,,b"], {}, "Expected 3 different names"),
        (["--divide-by", "0"], {}, "positive number for --divide-by"),
    ],
)
def test_what_is_refused(folder, arguments, options, message, capsys):
    assert run(folder, *arguments, **options) is None
    assert message in capsys.readouterr().err


def test_models_that_are_no_classifiers_of_images(folder, capsys):
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(1, "sigmoid")(MCDropout(0.5)(keras.layers.Flatten()(inputs)))
    tfp_bayes.BayesianModel(inputs, outputs, likelihood="bernoulli").save(folder / "one.keras")
    assert run(folder, "--classes", "x", model="one.keras") is None
    assert "likelihood='bernoulli'" in capsys.readouterr().err
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs)).save(folder / "table.keras")
    assert run(folder, model="table.keras") is None
    assert "inputs of shape (None, 4)" in capsys.readouterr().err


def test_damaged_class_names(folder, tmp_path, capsys):
    model = keras.models.load_model(folder / "model.keras")
    model.save(tmp_path / "model.keras")
    save(tmp_path / "photos" / "a.png", picture(0, size=(8, 8)))
    for text in ("{", '["a"]', "[1, 2, 3]"):
        (tmp_path / "class_names.json").write_text(text)
        assert run(tmp_path, "--num-samples", "2") is None
        assert "Expected 3 different names" in capsys.readouterr().err
    (tmp_path / "class_names.json").unlink()
    assert run(tmp_path, "--num-samples", "2")[0]["class"] in {"0", "1", "2"}
