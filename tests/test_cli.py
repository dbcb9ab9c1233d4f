"""Tests of the command line."""

import csv
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from processes import run_python

import tfp_bayes

TOOL = Path(sys.executable).with_name("tfp-bayes")
QUICK = ["--rounds", "1", "--steps", "3", "--candidates", "50", "--num-samples", "2"]
QUICK += ["--evaluation-samples", "2", "--initial", "balanced", "--architecture", "gal"]
ALONE = [*QUICK, "--compare", "none"]


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
        "checkpoint.npz.answers.jsonl",
        "checkpoint.npz.lock",
        "history.csv",
        "acquired.csv",
        "learning_curve.png",
        "acquired.png",
        "summary.json",
        "model.keras",
        "class_names.json",
        "random",  # the baseline
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
    for method, path in (("BatchBALD", folder), ("random", folder / "random")):
        accuracy = float(read(path / "history.csv")[1]["test_accuracy"])
        (line,) = [each for each in done.stdout.splitlines() if "error" in each and method in each]
        assert line.startswith(f"{method:10s} test accuracy {accuracy:.2%} with 30 labels; ")
    assert done.stderr == ""
    for name in ("learning_curve.png", "acquired.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_final_model_is_the_one_that_was_measured(finished):
    folder, _ = finished
    from tfp_bayes import datasets
    from tfp_bayes._plumbing.seeds import RoundSeeds

    data = datasets.load("mnist")
    model = keras.models.load_model(folder / "model.keras")
    assert model.num_samples == 2
    last = read(folder / "history.csv")[-1]
    seed = RoundSeeds.of(3, int(last["round"])).evaluate
    p = model.predict_uncertainty(data.x_test, num_samples=2, seed=seed)
    assert p.score(data.y_test).accuracy == float(last["test_accuracy"])


def test_a_folder_with_a_run_is_not_overwritten(finished):
    folder, _ = finished
    before = (folder / "history.csv").read_bytes()
    command = [TOOL, "active-learning", "--compare", "none", "--out", folder]
    done = run_python(*command, *QUICK)
    assert done.returncode == 1
    assert "Hint: add --resume" in done.stderr
    done = run_python(*command, "--resume", "--seed", 4)
    assert done.returncode == 1
    assert "seed=4 (was 3)" in done.stderr
    assert (folder / "history.csv").read_bytes() == before


def test_interrupted_then_resumed(finished, tmp_path):
    command = ["active-learning", "--compare", "none", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfp_bayes", *command, *QUICK, "--rounds", "3", "--seed", "3"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "history.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Continue with the same command and --resume." in errors
    done = run_python(TOOL, *command, "--resume", "--rounds", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    history = read(tmp_path / "run" / "history.csv")
    assert [row["round"] for row in history] == ["0", "1", "2"]
    assert {row["optimizer_steps"] for row in history} == {"3"}  # from the first command
    # The seed is that of the finished run, which was not interrupted and has one round.
    acquired = read(tmp_path / "run" / "acquired.csv")
    assert acquired[:10] == read(finished[0] / "acquired.csv")
    assert len(acquired) == 20


REFUSED = [
    (["--acquisition", "bold"], "acquisition='bold'"),
    (["--inference", "vi"], "inference='vi'"),
    (["--inference", "deterministic"], "Hint: acquisition='max_entropy'"),
    (["--inference", "closed_form", "--label-filter", "random"], "predicts probabilities"),
    (["--resume", "--out", "nothing"], "no config.json"),
    (["--query-size", "0"], "query_size=0"),
    (["--query-size", "ten"], "Received: ten"),
    (["--candidates", "5"], "candidates=5, query_size=10"),
    (["--selector", "best"], "selector='best'"),
    (["--selector", '{"name": "diverse", "weight": 1}'], "unexpected keyword argument"),
    (["--selector", '{"name": "diverse", "coefficient": "high"}'], "coefficient='high'"),
    (["--selector", '{"name": "diverse", "coefficient": NaN}'], "coefficient=nan"),
    (["--selector", '{"coefficient": 1}'], "selector={'coefficient': 1}"),
    (["--selector", '{"name"'], "Expecting ':'"),
    (["--initial", "best"], "initial='best'"),
    (["--noise-rate", "2"], "noise_rate=2.0"),
    (["--prior-scale", "-1"], "prior_scale=-1.0"),
    (["--label-filter", "strict"], "label_filter='strict'"),
    (["--label-filter", '{"name": "static_threshold", "tau": "x"}'], "tau='x'"),
    (["--rejected", "drop"], "rejected='drop'"),
    (["--rounds", "-1"], "Expected an integer of at least 0. Received: -1"),
    (["--stop", "time=3"], "stop='time=3'"),
    (["--stop", "labels=inf"], "stop='labels=inf'"),
    (["--dataset", "nonsense"], "did you mean one of ['mnist'"),
    (["--dataset", ""], "name=''"),
    (["--out", "file"], "where file is a file"),
    (["--out", "file/run"], "where file is a file"),
    (["--stop", "accuracy=high"], "stop='accuracy=high'"),
    (["--stop", "accuracy=95"], "stop='accuracy=95'"),
    (["--stop", "labels=inf"], "stop='labels=inf'"),
    (["--stop", "labels=2.5"], "stop='labels=2.5'"),
    (["--stop", "nll=nan"], "stop='nll=nan'"),
]
REFUSED = [(["active-learning", *arguments], message) for arguments, message in REFUSED]
REFUSED += [
    (["label", "--run", "x", "--port", "-1"], "Received: -1"),
    (["label", "--run", "x"], "Expected a run in x"),
    (["export-tasks", "--run", "x", "tasks.json"], "Expected a run in x"),
    (["experiment", "none.toml"], "none.toml"),
    (["experiment", "wrong.toml"], "steps='three'"),
    (["experiment", "wrong.toml", "--workers", "0"], "Received: 0"),
    (["experiment", "set.toml"], "name='nonsense'"),
    (["experiment", "right.toml", "--out", "file"], "where file is a file"),
    (["active-learning", "--resume", "--out", "unknown"], "Received: ['query']"),
    (["active-learning", "--resume", "--out", "damaged"], "Expected the configuration of a run"),
]


def test_bad_arguments_are_refused_before_anything_starts(tmp_path):
    for name, text in (("unknown", '{"query": 3}'), ("damaged", '{"steps"')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    (tmp_path / "wrong.toml").write_text("[methods.a]\nsteps = 'three'")
    (tmp_path / "set.toml").write_text("[methods.a]\ndataset = 'nonsense'")
    (tmp_path / "right.toml").write_text("[methods.a]\n")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import contextlib, io, json, sys\n"
        "sys.argv[0] = 'tfp-bayes'\n"  # as on the command line
        "from tfp_bayes.cli import main\n"
        "results = []\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as errors:\n"
        "        try:\n"
        "            status = main(arguments)\n"
        "        except SystemExit as end:\n"
        "            status = end.code\n"
        "    results.append((status, errors.getvalue(), 'tensorflow' in sys.modules))\n"
        "print(json.dumps(results))\n"
    )
    calls = [arguments for arguments, _ in REFUSED]
    done = tool("-c", code, json.dumps(calls), cwd=tmp_path, command=(sys.executable,))
    assert done.returncode == 0, done.stderr
    for (arguments, message), (status, text, started) in zip(
        REFUSED, json.loads(done.stdout), strict=True
    ):
        assert status in (1, 2), arguments
        assert message in text, (arguments, text)
        assert not started, arguments
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--pool-size", "70000"], "pool_size=70000")],
)
def test_what_only_the_data_can_tell(arguments, message, tmp_path):
    done = run_python(TOOL, "active-learning", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("config.json"))


def test_words_for_none():
    from tfp_bayes.cli import _parser

    words = ["--label-filter", "all", "--prior-scale", "inf", "--candidates", "all"]
    options = _parser().parse_args(["active-learning", *words, "--pool-size", "none"])
    assert options.label_filter is options.prior_scale is options.candidates is None
    assert options.pool_size is None
    assert not hasattr(options, "seed")  # unset, so that a resumed run keeps its seed


def test_options_are_the_fields_of_the_configuration():
    from tfp_bayes.models.layer_factory import INFERENCES
    from tfp_bayes.studies import configuration

    assert {*configuration.INFERENCES} == {*INFERENCES, *configuration.CLOSED_FORM}
    for architecture in configuration.ARCHITECTURES:
        assert tfp_bayes.BayesianCNN(architecture=architecture)
    help_text = tool("active-learning", "--help", cwd=".").stdout
    for field in dataclasses.fields(configuration.RunConfig):
        assert f"--{field.name.replace('_', '-')} " in help_text
    assert "(default batch_bald)" in " ".join(help_text.split())


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
        "--out": "[/b] [red]",  # markup for the progress display
    }
    flat = [each for pair in options.items() for each in pair]
    stop = ["--stop", "accuracy=1", "--stop", "labels=15"]
    done = run_python(TOOL, "active-learning", *ALONE, *flat, *stop, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / options["--out"]
    assert f"writing to {options['--out']}" in done.stdout
    assert re.search(r"rejected \d+ of \d+  wrong \d+", done.stdout)
    history = read(folder / "history.csv")
    assert 2 <= len(history) <= 3  # ten answers per round, plus repeated questions
    assert sum(int(row["num_asked"]) for row in history) >= 15
    assert all(int(row["index"]) < 300 for row in read(folder / "acquired.csv"))
    summary = json.loads((folder / "summary.json").read_text())
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
    done = run_python(TOOL, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # TensorFlow prints nothing in any process
    assert "| random | 1 |" in done.stdout
    rows = read(tmp_path / "runs" / "c" / "results.csv")
    assert [(r["method"], r["round"]) for r in rows] == [
        ("bald", "0"),
        ("bald", "1"),
        ("random", "0"),
        ("random", "1"),
    ]
    assert rows[0]["test_nll"] == rows[2]["test_nll"]  # paired
    # Other settings in the same folder are refused.
    text = (tmp_path / "c.toml").read_text().replace("steps = 3", "steps = 4")
    (tmp_path / "c.toml").write_text(text)
    refused = run_python(TOOL, "experiment", "c.toml", cwd=tmp_path)
    assert refused.returncode == 1
    assert "steps=4 (was 3)" in refused.stderr
