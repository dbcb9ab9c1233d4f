"""The default run of the command and its baselines."""

import dataclasses

import pytest

from tfp_bayes import cli
from tfp_bayes._plumbing.files import write_json
from tfp_bayes.active import Round
from tfp_bayes.studies.baseline import baseline, describe, method_of, read_baselines
from tfp_bayes.studies.configuration import FIRST_RUN, RunConfig, complete
from tfp_bayes.studies.report import write_history


def test_the_first_run_is_not_the_study():
    assert dataclasses.asdict(complete({})) == {**dataclasses.asdict(RunConfig()), **FIRST_RUN}
    assert RunConfig().architecture == "gal"


@pytest.mark.parametrize(
    ("given", "selector", "prior_scale"),
    [
        ({"acquisition": "bald"}, "batch_bald", None),
        ({"acquisition": "random"}, "top_k", None),  # BatchBALD would ignore its scores
        ({"inference": "flipout"}, "top_k", 1.0),
        ({"inference": "closed_form"}, "top_k", 1.0),
        ({"acquisition": "epig", "selector": "batch_bald"}, "batch_bald", None),
    ],
)
def test_given_fields_decide_defaults_of_others(given, selector, prior_scale):
    run = complete(given)
    assert (run.selector, run.prior_scale) == (selector, prior_scale)
    assert given.items() <= dataclasses.asdict(run).items()


def test_baseline_differs_only_in_acquisition():
    run = complete({"seed": 4, "query_size": 7})
    other = dataclasses.asdict(baseline(run, "random"))
    changed = {key for key, value in dataclasses.asdict(run).items() if other[key] != value}
    assert changed == {"acquisition", "selector", "candidates"}
    assert other["candidates"] == 7  # a random subset of the size of the batch
    assert baseline(run, "bald").candidates == run.candidates
    assert baseline(baseline(run, "random"), "random") is None


def test_names_of_methods():
    assert method_of(complete({})) == "BatchBALD"
    assert method_of(RunConfig()) == "bald"
    assert method_of(RunConfig(selector={"name": "power", "beta": 2.0})) == "bald, Power"


def test_histories_beside_a_run(tmp_path):
    history = [Round(0, 20, 0, 0.75), Round(1, 30, 10, 0.97)]
    write_history(tmp_path / "random" / "history.csv", history)
    config = dataclasses.asdict(RunConfig(acquisition="random"))
    write_json(tmp_path / "random" / "config.json", config)
    ((method, read),) = read_baselines(tmp_path).items()
    assert method == "random"
    assert [row.test_accuracy for row in read] == [0.75, 0.97]
    # The error is 25 % with 20 labels and 3 % with 30, and interpolated linearly in between.
    levels = "10 % error with 27, 5 % error with 29"
    assert describe(method, read) == f"random     test accuracy 97.00% with 30 labels; {levels}"


def test_an_impossible_baseline_is_refused_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tfp_bayes.datasets.load", lambda *_: pytest.fail("late"))
    given = ["--inference", "deterministic", "--acquisition", "max_entropy", "--compare", "bald"]
    assert cli.main(["active-learning", *given, "--out", str(tmp_path / "run")]) == 1
    assert "Expected an acquisition other than" in capsys.readouterr().err
