"""A killed run resumes to the bit-equal result, wherever it was killed."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from learners import arranged
from networks import bayesian_mlp
from processes import run_python

from tfp_bayes.active import ActiveLearner

SCRIPT = Path(__file__).with_name("resumable_run.py")
# Every stage of a round: some before the first checkpoint, some in the second acquisition.
KILLS = [
    ("start", 1),
    ("fit", 1),
    ("evaluate", 1),
    ("propose", 2),
    ("tell", 2),
    ("fit", 3),
    ("evaluate", 3),
    ("checkpoint", 4),
]


def run(folder, reinit, *kill):
    return run_python(SCRIPT, folder, reinit, *kill, cwd=folder)


def result(done):
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def killed_and_resumed(folder, reinit, stage, count):
    folder.mkdir()
    done = run(folder, reinit, stage, count)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    answer = result(run(folder, reinit))
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.npz",
        "checkpoint.npz.answers.jsonl",
        "checkpoint.npz.lock",
    ]
    return answer


@pytest.mark.parametrize("reinit", ["fresh", "warm"])
def test_killed_at_every_stage(reinit, tmp_path):
    (tmp_path / "whole").mkdir()
    kills = KILLS if reinit == "fresh" else [("propose", 2), ("fit", 3)]
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(lambda: result(run(tmp_path / "whole", reinit)))
        resumed = pool.map(
            lambda kill: killed_and_resumed(tmp_path / f"{kill[0]}{kill[1]}", reinit, *kill), kills
        )
        for kill, answer in zip(kills, resumed, strict=True):
            assert answer == whole.result(), kill


# Checkpoints of another run, and damaged ones.


def learner(path, **kwargs):
    model = bayesian_mlp(num_samples=3)
    model.compile("adam", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    y = np.arange(40) % 3
    arguments = arranged(initial=[0, 1, 2], query_size=2, steps=2, checkpoint=path, **kwargs)
    return ActiveLearner(model, x, y, **arguments)


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
    resumed = learner(path)
    np.testing.assert_array_equal(resumed.propose(), proposed[1:])
    assert resumed.labels[proposed[0]] == 2
    for a, b in zip(asking.model.get_weights(), resumed.model.get_weights()):
        np.testing.assert_array_equal(a, b)
