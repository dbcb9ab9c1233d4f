"""A small run that kills its own process: python resumable_run.py FOLDER REINIT STAGE COUNT.

It dies by SIGKILL when STAGE happens for the COUNT-th time. Without a stage, it completes and
prints its results. If it is started again, it resumes from its checkpoint.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import tfp_bayes
from tfp_bayes.active import Evaluation, Query, Refit
from tfp_bayes.layers import MCDropout


def main(folder, reinit, stage=None, count=0):
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
        if name == stage and seen.count(name) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    learner = tfp_bayes.ActiveLearner(
        model,
        x,
        y,
        initial=np.arange(6),
        query=Query(size=3, ignore=np.arange(100, 120)),
        refit=Refit(reinit, steps=10),
        evaluation=Evaluation(test_data=(x[100:], y[100:])),
        checkpoint=Path(folder) / "checkpoint.npz",
        on_stage=on_stage,
    )
    learner.run(2)
    result = {
        "acquired_at": learner.pool.acquired_at.tolist(),
        "scores": learner.pool.scores[learner.pool.acquired_at > 0].tolist(),
        "test_nll": [row.test_nll for row in learner.history],
        "weights": [float(np.abs(v.numpy()).sum(dtype="float64")) for v in model.variables],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
