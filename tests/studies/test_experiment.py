"""Experiments: paired seeds, resumption and tables; and their configuration."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tfp_bayes.active import Round, acquisition, filters, selectors
from tfp_bayes.studies import configuration, experiments
from tfp_bayes.studies.comparison import (
    plot,
    read_results,
    run_experiment,
    summarize,
    to_markdown,
    write_results,
)
from tfp_bayes.studies.configuration import RunConfig
from tfp_bayes.studies.report import read_history, write_history

STUDY = Path(__file__).parents[2] / "examples" / "study"
FLOOR = {"good": 0.02, "bad": 0.08}


def run(method, seed, folder):
    """Write a history whose error falls by 0.3 to the method's floor, and a mark that it ran."""
    path = folder / "history.csv"
    if path.exists():
        return
    rng = np.random.default_rng(seed)  # shared by all methods
    shift = 0.01 * rng.normal()
    history = [
        Round(i, 20 + 10 * i, 10 * i, test_accuracy=1 - FLOOR[method] - 0.3 * 0.5**i - shift)
        for i in range(6)
    ]
    folder.mkdir(parents=True)
    (folder / "worked").touch()
    write_history(path, history)


@pytest.mark.parametrize("engine", ["local", "ray"])  # test_cli.py uses "processes"
def test_runs_everything_once(engine, tmp_path, monkeypatch):
    if engine == "ray":
        pytest.importorskip("ray")
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))  # actors import this module
    seen = []
    histories = run_experiment(
        run, ["good", "bad"], range(3), tmp_path, engine=engine, on_run=lambda *r: seen.append(r)
    )
    assert sorted(seen) == [(m, s) for m in ("bad", "good") for s in range(3)]
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 6
    assert {(r["method"], r["seed"], r["round"]) for r in rows} >= {("good", "2", "5")}
    table = json.loads((tmp_path / "summary.json").read_text())
    assert table == json.loads(json.dumps(summarize(histories)))
    read = read_results(tmp_path / "results.csv")
    assert repr(read) == repr({m: dict(sorted(h.items())) for m, h in histories.items()})
    low, high = table["bad"]["difference"][1:]
    assert low == pytest.approx(0.06)  # pairing removes the shift that methods share
    assert high == pytest.approx(0.06)
    assert table["good"]["difference"] == [0, 0, 0]
    assert "| good | 3 |" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "learning_curves.png").stat().st_size > 5000
    # A second call with one more seed runs only that seed.
    marks = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("worked")}
    run_experiment(run, ["good", "bad"], range(4), tmp_path)
    assert all(p.stat().st_mtime_ns == t for p, t in marks.items())
    assert len(list(tmp_path.rglob("worked"))) == 8


def test_a_run_is_complete_when_its_last_file_is(tmp_path, monkeypatch):
    config = experiments.ExperimentConfig({"m": {"steps": 7}}, rounds=3)
    continued = []
    monkeypatch.setattr(
        experiments, "run_active_learning", lambda *args, **kwargs: continued.append(args)
    )
    monkeypatch.setattr(experiments, "_load_once", lambda name: None)
    monkeypatch.setattr(experiments, "_digest_once", lambda name: "")
    run = dataclasses.asdict(RunConfig(steps=7, seed=0))
    (tmp_path / "config.json").write_text(json.dumps(run))
    write_history(tmp_path / "history.csv", [Round(i, 20, 0, 0.5) for i in range(4)])
    for summary in (None, "", "{", '{"rounds": 2}'):  # missing, empty, incomplete, fewer rounds
        if summary is not None:
            (tmp_path / "summary.json").write_text(summary)
        experiments.run_one(config, "m", 0, tmp_path)
    assert len(continued) == 4
    (tmp_path / "summary.json").write_text('{"rounds": 3}')
    experiments.run_one(config, "m", 0, tmp_path)
    assert len(continued) == 4
    with pytest.raises(ValueError, match=r"steps=8 \(was 7\)"):
        experiments.run_one(experiments.ExperimentConfig({"m": {"steps": 8}}), "m", 0, tmp_path)


def test_a_complete_run_on_other_data_is_refused(tmp_path):
    """Otherwise the results of the old images would be reported for the new ones."""
    rng = np.random.default_rng(0)
    data = {name: rng.integers(0, 256, (60, 28, 28), "uint8") for name in ("x_train", "x_test")}
    data |= {name: np.arange(60) % 2 for name in ("y_train", "y_test")}
    path, folder = tmp_path / "own.npz", tmp_path / "run"
    np.savez(path, **data)
    method = {"dataset": str(path), "steps": 1, "candidates": 10, "acquisition": "random"}
    config = experiments.ExperimentConfig({"m": method}, rounds=0)
    experiments.run_one(config, "m", 0, folder)
    experiments.run_one(config, "m", 0, folder)  # the same data
    data["y_train"] = 1 - data["y_train"]
    np.savez(path, **data)
    for function in (experiments._load_once, experiments._digest_once):
        function.cache_clear()  # like a new process
    with pytest.raises(ValueError, match=r"Received: others, from dataset='.*own.npz'"):
        experiments.run_one(config, "m", 0, folder)


def test_a_method_that_keeps_no_label(tmp_path):
    def history(kept):
        counts = {"num_asked": 10, "num_rejected": 10 - kept}
        return [Round(i, 20 + i * kept, i * kept, 0.5 + 0.01 * i, **counts) for i in range(4)]

    histories = {"all": {s: history(10) for s in (0, 1)}, "none": {s: history(0) for s in (0, 1)}}
    write_results(histories, tmp_path)
    row = json.loads((tmp_path / "summary.json").read_text())["none"]
    assert row["area"] == pytest.approx([0.485] * 3)
    assert row["difference"] == pytest.approx([0] * 3)
    assert row["last_acquired"] == 0
    assert "| none | 2 |" in (tmp_path / "summary.md").read_text()


def test_two_experiments_in_one_folder(tmp_path):
    lock = tmp_path / "experiment.lock"
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    code += "print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, lock], **pipes) as process:
        process.stdout.readline()
        with pytest.raises(OSError, match="in use by another process"):
            run_experiment(run, ["good"], [0], tmp_path)
        process.stdin.close()
    run_experiment(run, ["good"], [0], tmp_path)


def test_methods_that_would_share_a_folder(tmp_path):
    with pytest.raises(ValueError, match="whose folders have different names"):
        run_experiment(run, ["good", "good!"], [0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_difference_is_averaged_over_rounds_not_labels():
    def history(acquired, errors):
        return [
            Round(i, 20 + kept, kept, test_accuracy=1 - error)
            for i, (kept, error) in enumerate(zip(acquired, errors, strict=True))
        ]

    histories = {
        "all kept": {0: history([0, 10, 20], [0.5, 0.4, 0.3])},
        "filtered": {0: history([0, 1, 10], [0.5, 0.4, 0.15])},
    }
    row = summarize(histories)["filtered"]
    assert row["difference"] == [pytest.approx(-0.0375), None, None]
    assert row["difference_in_first_half"] == [0, None, None]  # rounds 0 and 1 of 0, 1, 2
    assert row["difference_in_second_half"] == [pytest.approx(-0.15), None, None]


def test_no_second_half_of_one_round():
    histories = {
        name: {0: [Round(0, 20, 0, accuracy)]} for name, accuracy in (("a", 0.5), ("b", 0.6))
    }
    row = summarize(histories)["b"]
    assert row["difference"] == [pytest.approx(-0.1), None, None]
    assert row["difference"] == row["difference_in_first_half"]
    assert "difference_in_second_half" not in row
    assert "| -10.00% | -10.00% |  |" in to_markdown(summarize(histories))


@pytest.mark.parametrize("accuracies", [[0.5, 0.6, 0.85], [0.7]])
def test_band_is_one_standard_error(accuracies):
    runs = {
        seed: [Round(0, 20, 0, each), Round(1, 30, 10, 1)] for seed, each in enumerate(accuracies)
    }
    (axes,) = plot({"only": runs}).axes
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices
    heights = heights[heights[:, 0] == 0, 1]
    error = scipy.stats.sem(accuracies) if len(accuracies) > 1 else 0
    expected = 100 * (np.mean(accuracies) + error * np.array([-1, 1]))
    np.testing.assert_allclose([heights.min(), heights.max()], expected)
    explained = "one seed" if len(accuracies) == 1 else "mean of 3 seeds, band: one standard error"
    assert axes.get_title() == explained


def test_crossing_of_the_mean_curve(tmp_path):
    table = summarize(run_experiment(run, ["good", "bad"], range(5), tmp_path))
    shift = np.mean([0.01 * np.random.default_rng(s).normal() for s in range(5)])
    errors = np.array([0.02 + 0.3 * 0.5**i + shift for i in range(6)])
    expected = np.interp(-0.1, -errors, 10 * np.arange(6))
    estimate, low, high = table["good"]["images_to_10_percent_error"]
    assert estimate == pytest.approx(expected)
    assert low < estimate < high
    assert table["bad"]["images_to_5_percent_error"] == [None, None, None]


def test_filters_are_summed_up(tmp_path):
    def filtered(method, seed, folder):
        folder.mkdir(parents=True)
        counts = {"num_asked": 10, "num_rejected": 3, "num_wrong": 2.0, "num_wrong_rejected": 1.0}
        history = [Round(0, 20, 0, 0.5), Round(1, 27, 7, 0.6, validation_nll=1.5, **counts)]
        write_history(folder / "history.csv", history)

    row = summarize(run_experiment(filtered, ["only"], [0, 1], tmp_path))["only"]
    assert row["filter"] == {
        "rejected_per_round": 3,
        "wrong_per_round": 2,
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "excess": 0.5,
    }
    assert row["last_validation_nll"] == 1.5
    assert "| only | 3.00 | 2.00 | 0.33 | 0.50 | 0.50 |" in (tmp_path / "summary.md").read_text()


def test_names_the_method_to_choose_by_validation(tmp_path):
    def validated(method, seed, folder):
        folder.mkdir(parents=True)
        nll = {"a": 0.9, "b": 0.7, "unknown": float("nan")}[method]
        write_history(folder / "history.csv", [Round(0, 20, 0, 0.5, validation_nll=nll)])

    run_experiment(validated, ["a", "b", "unknown"], [0], tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert text.endswith("Smallest NLL on validation data at the end: b (0.700).\n")


def test_history_is_read_as_it_was_written(tmp_path):
    history = [
        Round(0, 20, 0),
        Round(1, 30, 10, test_accuracy=0.123456789012345, num_wrong=2.0, fit_seconds=1e-9),
    ]
    write_history(tmp_path / "h.csv", history)
    assert repr(read_history(tmp_path / "h.csv")) == repr(history)  # by repr, as NaN != NaN


@pytest.mark.parametrize("path", sorted(STUDY.glob("results/*.csv")), ids=lambda path: path.stem)
def test_tables_of_the_study_are_those_of_its_rows(path):
    table = to_markdown(summarize(read_results(path)))
    assert table in path.with_suffix(".md").read_text()


def test_other_files_are_refused(tmp_path):
    for text in ("a,b\n1,2\n", "method,seed,loss\na,0,0.5\n"):
        (tmp_path / "r.csv").write_text(text)
        with pytest.raises(ValueError, match="Expected columns `method` and `seed`"):
            read_results(tmp_path / "r.csv")


TOML = """
rounds = 3
seeds = 2
steps = 7
[methods.a]
[methods.b]
acquisition = "random"
label_filter = {name = "static_threshold", tau = 0.1}
prior_scale = "none"
"""


def test_configuration(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(TOML)
    config = configuration.load_experiment(path)
    assert (config.seeds, config.rounds) == (2, 3)
    assert config.methods["a"] == {"steps": 7}
    assert config.methods["b"]["label_filter"] == {"name": "static_threshold", "tau": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = 3", "no method"),
        ("[methods.a]\nstep = 3", r"\['step'\]"),
        ("step = 3\n[methods.a]", r"\['step'\]"),
        ("seed = 1\n[methods.a]", r"\['seed'\]"),
        ("methods = 3", "methods=3"),
        ("[methods]\na = 1", "methods={'a': 1}"),
        ("[methods.a]\nsteps = 'three'", "steps='three'"),
        ("[methods.a]\nsteps = true", "steps=True"),
        ("[methods.a]\nselector = {coefficient = 1}", "selector={'coefficient': 1}"),
        ("seeds = 1.5\n[methods.a]", "seeds=1.5"),
        ("seeds = 0\n[methods.a]", "seeds=0"),
        ("rounds = -1\n[methods.a]", "rounds=-1"),
        ("[methods.a", "Expected "),
    ],
)
def test_configuration_refused(text, message, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"Expected .*Received: {message}.*Hint: ") as caught:
        configuration.load_experiment(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", sorted(STUDY.glob("*.toml")), ids=lambda path: path.name)
def test_the_study_can_be_run(path, tmp_path):
    config = configuration.load_experiment(path)
    run_experiment(run, list(config.methods), [], tmp_path)  # refuses names that share a folder
    for arguments in config.methods.values():
        one = configuration.RunConfig(**arguments, seed=0)
        assert acquisition.get(one.acquisition)
        assert selectors.get(one.selector)
        filters.get(one.label_filter)
    assert f"`{path.name}`" in (STUDY / "README.md").read_text()
