"""A killed run resumes to the bit-equal result, wherever it was killed."""

import functools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from learners import arranged
from networks import bayesian_mlp
from processes import run_python

from tfp_bayes.active import ActiveLearner

SCRIPT = Path(__file__).with_name("resumable_run.py")
# Every stage of a round: some before the first checkpoint, some in the second acquisition.
STAGES = ["start1", "fit1", "evaluate1", "propose2", "tell2", "fit3", "evaluate3", "checkpoint4"]


def results(*arguments):
    done = run_python(SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_at_every_stage(tmp_path):
    """A kill at a stage leaves the files that a run has at that stage, as one killed run shows.

    The runs with these files are resumed in another process, each with a new model.
    """
    fresh, warm, killed = (tmp_path / name for name in ("fresh", "warm", "fresh-killed"))
    for folder in (fresh, warm, killed):
        folder.mkdir()
    expected = dict(zip(("fresh", "warm"), results(fresh, warm, "--copy", *STAGES), strict=True))
    assert expected["fresh"] != expected["warm"]
    done = run_python(SCRIPT, killed, "--kill", "propose2")
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    copy = tmp_path / "fresh-propose2"
    assert {path.name for path in killed.iterdir()} == {path.name for path in copy.iterdir()}
    stages = [*(f"fresh-{stage}" for stage in STAGES), "warm-propose2", "warm-fit3"]
    folders = [killed, *(tmp_path / stage for stage in stages)]
    for folder, found in zip(folders, results(*folders), strict=True):
        assert found == expected[folder.name.split("-")[0]], folder.name
        assert sorted(path.name for path in folder.iterdir()) == [
            "checkpoint.npz",
            "checkpoint.npz.answers.jsonl",
            "checkpoint.npz.lock",
        ]


# Checkpoints of another run, and damaged ones.


def new_model():
    model = bayesian_mlp(num_samples=3)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


used_model = functools.cache(new_model)


def learner(path, model=None, **kwargs):
    x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    y = np.arange(40) % 3
    arguments = arranged(initial=[0, 1, 2], query_size=2, steps=2, checkpoint=path, **kwargs)
    return ActiveLearner(model or used_model(), x, y, **arguments)


def test_another_configuration_is_refused(tmp_path):
    path = tmp_path / "checkpoint.npz"
    learner(path).run(1)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"seed=3 \(was 0\)"):
        learner(path, seed=3)
    with pytest.raises(ValueError, match=r"acquisition='random' \(was 'bald'\)"):
        learner(path, acquisition="random")
    assert path.read_bytes() == before


def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"my thesis")
    with pytest.raises(ValueError, match="Expected a checkpoint"):
        learner(path)
    assert path.read_bytes() == b"my thesis"


def test_answers_survive_one_by_one(tmp_path):
    path = tmp_path / "checkpoint.npz"
    asking = learner(path)
    proposed = asking.propose()
    asking.tell(proposed[0], 2)
    resumed = learner(path, new_model())
    np.testing.assert_array_equal(resumed.propose(), proposed[1:])
    assert resumed.labels[proposed[0]] == 2
    for a, b in zip(asking.model.get_weights(), resumed.model.get_weights()):
        np.testing.assert_array_equal(a, b)
