"""The command line, as a user types it."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

TOOL = Path(sys.executable).with_name("tfp-bayes")
QUICK = ["--rounds", "1", "--steps", "3", "--candidates", "50", "--num-samples", "2"]


def tool(*arguments, cwd, command=(TOOL,)):
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_help_is_instant(tmp_path):
    for arguments in (["--help"], ["active-learning", "--help"], ["--version"]):
        start = time.perf_counter()
        done = tool(*arguments, cwd=tmp_path)
        assert time.perf_counter() - start < 1
        assert done.returncode == 0
    assert "0.1.0" in done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = tool("active-learning", *QUICK, "--seed", 3, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def test_writes_what_it_promises(finished):
    folder, done = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "checkpoint.npz",
        "history.csv",
        "acquired.csv",
        "learning_curve.png",
        "acquired.png",
        "summary.json",
        "model.keras",
    }
    history = read(folder / "history.csv")
    assert list(history[0]) == [
        "round",
        "num_labelled",
        "num_acquired",
        "test_accuracy",
        "test_rmse",
        "test_nll",
        "validation_accuracy",
        "validation_nll",
        "pool_uncertainty",
        "num_asked",
        "num_rejected",
        "num_wrong",
        "num_wrong_rejected",
        "purity",
        "optimizer_steps",
        "fit_seconds",
        "score_seconds",
        "evaluate_seconds",
    ]
    assert [row["num_acquired"] for row in history] == ["0", "10"]
    acquired = read(folder / "acquired.csv")
    assert list(acquired[0]) == ["round", "index", "label", "score"]
    scores = [float(row["score"]) for row in acquired]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["configuration"]["seed"] == 3
    assert summary["images_to_10_percent_error"] is None
    assert keras.__version__ == summary["versions"]["keras"]
    assert f"{float(history[1]['test_accuracy']):.2%}" in done.stdout
    for name in ("learning_curve.png", "acquired.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_final_model_is_the_one_that_was_measured(finished):
    folder, _ = finished
    from tfp_bayes import datasets

    data = datasets.load("mnist")
    model = keras.models.load_model(folder / "model.keras")
    assert model.num_samples == 2
    accuracy = (model.predict(data.x_test, verbose=0).argmax(1) == data.y_test).mean()
    measured = float(read(folder / "history.csv")[-1]["test_accuracy"])
    # Other samples of the same posterior, only two of them.
    assert accuracy == pytest.approx(measured, abs=0.1)


def test_equal_seeds_choose_equal_images(finished):
    folder, _ = finished
    again = tool(
        *["active-learning", *QUICK, "--seed", 3, "--out", "again"],
        cwd=folder.parent,
        command=(sys.executable, "-m", "tfp_bayes"),
    )
    assert again.returncode == 0, again.stderr
    first, second = (read(folder.parent / d / "acquired.csv") for d in ("run", "again"))
    assert first == second


def test_a_folder_with_a_run_is_not_overwritten(finished):
    folder, _ = finished
    before = (folder / "history.csv").read_bytes()
    done = tool("active-learning", *QUICK, "--out", folder, cwd=folder.parent)
    assert done.returncode == 1
    assert "Hint: add --resume" in done.stderr
    done = tool("active-learning", "--resume", "--seed", 4, "--out", folder, cwd=folder.parent)
    assert done.returncode == 1
    assert "seed=4 (was 3)" in done.stderr
    assert (folder / "history.csv").read_bytes() == before


def test_interrupted_then_resumed(tmp_path):
    command = [TOOL, "active-learning", *QUICK, "--rounds", "3", "--out", "run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "history.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Continue with the same command and --resume." in errors
    done = tool("active-learning", "--resume", "--rounds", 2, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    history = read(tmp_path / "run" / "history.csv")
    assert [row["round"] for row in history] == ["0", "1", "2"]
    assert {row["optimizer_steps"] for row in history} == {"3"}  # as the first command said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--acquisition", "bold"], "acquisition='bold'"),
        (["--inference", "vi"], "inference='vi'"),
        (["--dataset", "mnst"], "did you mean"),
        (["--resume", "--out", "nothing"], "no config.json"),
        (["--query-size", "0"], "query_size=0"),
        (["--pool-size", "70000"], "pool_size=70000"),
        (["--selector", "best"], "selector='best'"),
        (["--selector", '{"name": "diverse", "weight": 1}'], "unexpected keyword argument"),
        (["--initial", "best"], "initial='best'"),
        (["--noise-rate", "2"], "rate=2.0"),
        (["--label-filter", "strict"], "filter='strict'"),
        (["--rejected", "drop"], "rejected='drop'"),
        (["--stop", "time=3"], "--stop=time=3"),
        (["--stop", "accuracy=high"], "--stop=accuracy=high"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    done = tool("active-learning", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("config.json"))


def test_json_that_is_none(tmp_path):
    done = tool("active-learning", "--selector", '{"name"', cwd=tmp_path)
    assert done.returncode == 2
    assert "Expected a name or JSON" in done.stderr


def test_noise_filter_selector_and_stop(tmp_path):
    options = {
        "--noise-rate": 0.4,
        "--label-filter": "oracle",
        "--rejected": "relabel",
        "--acquisition": "epig",
        "--selector": '{"name": "batch_bald", "max_configurations": 500}',
        "--initial": "kmeans_unlabelled",
        "--pool-size": 300,
        "--evaluation-samples": 1,
        "--rounds": 5,
        "--out": "run",
    }
    flat = [each for pair in options.items() for each in pair]
    stop = ["--stop", "accuracy=1.1", "--stop", "labels=15"]
    done = tool("active-learning", *QUICK, *flat, *stop, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    history = read(tmp_path / "run" / "history.csv")
    assert 2 <= len(history) <= 3  # ten answers a round, and those that were asked again
    assert sum(int(row["num_asked"]) for row in history) >= 15
    assert all(int(row["index"]) < 300 for row in read(tmp_path / "run" / "acquired.csv"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["configuration"]["label_filter"] == "oracle"
    assert summary["configuration"]["selector"]["max_configurations"] == 500
    assert sum(summary["initial_coverage"].values()) == 20
    assert set(summary["filter"]) == {"precision", "recall", "excess"}


def test_experiment(tmp_path):
    (tmp_path / "c.toml").write_text(
        "seeds = 1\nrounds = 1\nsteps = 3\ncandidates = 50\nnum_samples = 2\n"
        "[methods.bald]\n[methods.random]\nacquisition = 'random'\n"
    )
    command = ["experiment", "c.toml", "--workers", "2"]
    process = subprocess.Popen(
        [TOOL, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert b"writing to" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Continue with the same command." in errors
    done = tool(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # TensorFlow is silent in every process
    assert "| random | 1 |" in done.stdout
    rows = read(tmp_path / "runs" / "c" / "results.csv")
    assert [(r["method"], r["round"]) for r in rows] == [
        ("bald", "0"),
        ("bald", "1"),
        ("random", "0"),
        ("random", "1"),
    ]
    assert rows[0]["test_nll"] == rows[2]["test_nll"]  # paired
    # Other settings in the same folder are refused, not mixed.
    text = (tmp_path / "c.toml").read_text().replace("steps = 3", "steps = 4")
    (tmp_path / "c.toml").write_text(text)
    refused = tool("experiment", "c.toml", cwd=tmp_path)
    assert refused.returncode == 1
    assert "steps=4 (was 3)" in refused.stderr
    missing = tool("experiment", "d.toml", cwd=tmp_path)
    assert missing.returncode == 1
    assert "d.toml" in missing.stderr
