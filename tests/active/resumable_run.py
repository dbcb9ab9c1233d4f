"""Small runs of active learning: python resumable_run.py FOLDER ... [--copy|--kill STAGE ...].

It completes the run in each folder, new or resumed from its checkpoint, and prints the results as
a line of JSON. A folder is named after the kind of retraining, such as "warm" or "fresh-2". At
given stages, such as "fit3" for the third training, --copy copies the files of the run to
FOLDER-STAGE, and --kill ends the process by SIGKILL, which leaves the same files.
"""

import argparse
import json
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np

import tfp_bayes
from tfp_bayes.active import Evaluation, Query, Refit
from tfp_bayes.layers import MCDropout


def run(folder, copies, kills):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype("float32")
    y = x[:, :3].argmax(1)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    hidden = MCDropout(0.3)(keras.layers.Dense(16, activation="relu")(inputs))
    outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=1.0, num_samples=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    seen = []

    def on_stage(name):
        seen.append(name)
        stage = f"{name}{seen.count(name)}"
        if stage in copies:
            shutil.copytree(folder, f"{folder}-{stage}")
        if stage in kills:
            os.kill(os.getpid(), signal.SIGKILL)

    learner = tfp_bayes.ActiveLearner(
        model,
        x,
        y,
        initial=np.arange(6),
        query=Query(size=3, ignore=np.arange(100, 120)),
        refit=Refit(folder.name.split("-")[0], steps=10),
        evaluation=Evaluation(test_data=(x[100:], y[100:])),
        checkpoint=folder / "checkpoint.npz",
        on_stage=on_stage,
    )
    learner.run(2)
    return {
        "acquired_at": learner.pool.acquired_at.tolist(),
        "scores": learner.pool.scores[learner.pool.acquired_at > 0].tolist(),
        "test_nll": [row.test_nll for row in learner.history],
        "weights": [float(np.abs(v.numpy()).sum(dtype="float64")) for v in model.variables],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    for option in ("--copy", "--kill"):
        parser.add_argument(option, nargs="*", default=[])
    given = parser.parse_args()
    print(json.dumps([run(each, given.copy, given.kill) for each in given.folders]))
