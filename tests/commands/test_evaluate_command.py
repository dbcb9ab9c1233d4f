"""`tfp-bayes evaluate` writes the metrics of saved models as a page, a table and a CSV file."""

import csv
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from photos import class_folders, picture, save

import tfp_bayes
from tfp_bayes import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with dropout, its deterministic copy, a data set and a folder of photographs."""
    folder = tmp_path_factory.mktemp("evaluate")
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs = keras.Input((8, 8, 3))
    hidden = tfp_bayes.layers.MCDropout(0.3)(keras.layers.Flatten()(inputs))
    outputs = keras.layers.Dense(2, "softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=6)
    model.save(folder / "model.keras")
    tfp_bayes.to_deterministic(model).save(folder / "plain.keras")
    x, y = rng.integers(0, 256, (70, 8, 8, 3)).astype("uint8"), rng.integers(0, 2, 70)
    parts = {"x_train": x[:10], "y_train": y[:10], "x_test": x[10:50], "y_test": y[10:50]}
    np.savez(folder / "data.npz", **parts, x_val=x[50:], y_val=y[50:])
    for i in range(12):
        save(folder / "photos" / f"{i}.png", picture(i, size=(9 + i, 12)))
    return folder


def run(folder, *arguments, models=("model.keras", "plain.keras"), data="data.npz"):
    paths = [str(folder / model) for model in models]
    given = ["--dataset", str(folder / data), "--out", str(folder / "out"), "--divide-by", "255"]
    return cli.main(["evaluate", *paths, *given, *arguments])


def test_files_hold_what_python_says(folder, capsys):
    ood, calibration = str(folder / "photos"), "validation"
    assert run(folder, "--ood", ood, "--calibration", calibration, "--seed", "2") == 0
    said = capsys.readouterr().out
    assert "| metric | model | plain | plain - model |" in said
    assert "report.html" in said
    with np.load(folder / "data.npz") as data:
        x, y, held = data["x_test"] / np.float32(255), data["y_test"], data["x_val"]
        report = tfp_bayes.evaluate(
            {name: folder / f"{name}.keras" for name in ("model", "plain")},
            (x, y),
            calibration=(held / np.float32(255), data["y_val"]),
            seed=2,
        )
    with (folder / "out" / "report.csv").open() as file:
        rows = {
            (row["model"], row["metric"]): float(row["value"] or "nan")
            for row in csv.DictReader(file)
        }
    for name in ("model", "plain"):
        for metric in ("accuracy", "nll", "temperature", "nll_calibrated", "augrc"):
            expected = report.values[name][metric]
            assert rows[name, metric] == pytest.approx(expected, rel=1e-6), metric
    assert 0 <= rows["model", "ood_auroc_entropy"] <= 1
    assert (folder / "out" / "report.md").read_text() in said
    page = (folder / "out" / "report.html").read_text()
    assert page.count("base64,") == 2 + (3 + 2) + 2 * 2 + 1 + 2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {"models": ["none.keras"]}, "none.keras does not exist"),
        ([], {"models": ["model.keras+none.npz"]}, "none.npz does not exist"),
        ([], {"models": ["data.npz"]}, "Expected a saved model"),
        ([], {"data": "nowhere.npz"}, "Expected an existing folder or file"),
        (["--ood", "fashon_mnist"], {}, "did you mean"),
        (["--divide-by", "0"], {}, "positive number for --divide-by"),
        (["--divide-by", "inf"], {}, "positive number for --divide-by"),
        (["--calibration", "SAME"], {}, "Expected other examples than those of --dataset"),
        (["--calibration", "SPELLED"], {}, "Expected other examples than those of --dataset"),
        (["--out", "FILE"], {}, "Expected a folder for --out"),
    ],
)
def test_what_is_refused_before_tensorflow_starts(
    folder, arguments, options, message, capsys, monkeypatch
):
    monkeypatch.setattr("tfp_bayes.commands.evaluate.start_tensorflow", lambda: pytest.fail("late"))
    names = {
        "SAME": str(folder / "data.npz"),
        "SPELLED": f"{folder}/../{folder.name}/data.npz",
        "FILE": str(folder / "model.keras"),
    }
    assert run(folder, *(names.get(each, each) for each in arguments), **options) == 1
    assert message in capsys.readouterr().err


def test_data_that_do_not_fit(folder, capsys):
    with np.load(folder / "data.npz") as data:
        parts = {name: data[name] for name in data if "val" not in name}
    np.savez(folder / "without.npz", **parts)
    assert run(folder, "--calibration", "validation", data="without.npz") == 1
    assert "which has none" in capsys.readouterr().err
    assert run(folder, "--ood", "mnist", data="without.npz") == 1
    assert "of the shape (8, 8, 3) of --dataset for --ood" in capsys.readouterr().err


def test_classes_of_another_order_are_refused(folder, tmp_path, capsys):
    """Class folders are numbered by name, but a model's outputs in the order of its training."""
    for split, count in (("train", 1), ("test", 3)):
        class_folders(tmp_path / "cells" / split, {"cat": count, "owl": count}, size=(8, 8))
    shutil.copy(folder / "model.keras", tmp_path)
    given = {"models": ["model.keras"], "data": "cells"}
    for names, status in ((["owl", "cat"], 1), (["cat", "owl"], 0), (["cat"], 1)):
        (tmp_path / "class_names.json").write_text(json.dumps(names))
        assert run(tmp_path, **given) == status
        assert (f"Expected the classes {names} of" in capsys.readouterr().err) == status
    class_folders(tmp_path / "other" / "test", {"cat": 1, "emu": 3}, size=(8, 8))
    class_folders(tmp_path / "other" / "train", {"cat": 1, "emu": 1}, size=(8, 8))
    (tmp_path / "class_names.json").write_text(json.dumps(["cat", "owl"]))
    assert run(tmp_path, "--calibration", str(tmp_path / "other"), **given) == 1
    expected = "classes ['cat', 'owl'] of --dataset for --calibration"
    assert expected in capsys.readouterr().err
    shutil.copy(folder / "data.npz", tmp_path)  # its classes have no names
    (tmp_path / "class_names.json").write_text(json.dumps(["owl", "cat"]))
    assert run(tmp_path, models=["model.keras"]) == 0


def test_help_needs_neither_tensorflow_nor_numpy():
    code = (
        "import sys\n"
        "sys.argv = ['/bin/tfp-bayes', 'evaluate', '--help']\n"
        "from tfp_bayes.cli import main\n"
        "try: main()\n"
        "finally: assert not {'tensorflow', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "AssertionError" not in done.stderr
    assert "--calibration" in done.stdout
