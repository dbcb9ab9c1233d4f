"""What a learner needs to go on as if it had never stopped: all that decides what happens next."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tfp_bayes._plumbing import checkpoint
from tfp_bayes.active.pool import Pool
from tfp_bayes.active.round import Round

if TYPE_CHECKING:
    from tfp_bayes.active.learner import ActiveLearner

_ARRAYS = ("scores", "pending", "proposed", "proposed_probabilities")
_LABELLING = ("labels", "probability", "rejected_at", "num_asks")
_NUMBERS = ("score_seconds", "pool_uncertainty")


def save_learner(learner: "ActiveLearner") -> None:
    """Writes a learner's state into its checkpoint, atomically."""
    arrays = {"acquired_at": learner.pool.acquired_at}
    arrays |= {name: getattr(learner, name) for name in _ARRAYS}
    arrays |= {name: getattr(learner.labelling, name) for name in _LABELLING}
    arrays |= {f"weight_{i}": v.numpy() for i, v in enumerate(learner.model.variables)}
    record = {
        "config": _config(learner),
        "history": [dataclasses.asdict(row) for row in learner.history],
        "tally": learner.labelling.tally,
        **{name: getattr(learner, name) for name in _NUMBERS},
    }
    checkpoint.save(learner.checkpoint, arrays, record)


def load_learner(learner: "ActiveLearner") -> None:
    """Brings a new learner to the state in its checkpoint.

    Raises:
        ValueError: If that is of a run with other arguments.
    """
    arrays, record = checkpoint.load(learner.checkpoint)
    checkpoint.check_same_configuration(_config(learner), record["config"], learner.checkpoint)
    learner.pool = Pool(arrays["acquired_at"])
    for name in _ARRAYS:
        setattr(learner, name, arrays[name])
    for name in _LABELLING:
        setattr(learner.labelling, name, arrays[name])
    for name in _NUMBERS:
        setattr(learner, name, record[name])
    learner.labelling.tally = record["tally"]
    learner.history = [Round(**row) for row in record["history"]]
    for i, variable in enumerate(learner.model.variables):
        variable.assign(arrays[f"weight_{i}"])


def _config(learner: "ActiveLearner") -> dict:
    """Returns what a resumed run must have in common with the one it continues."""
    return {
        "num_examples": len(learner.x),
        "num_classes": learner.num_classes,
        "num_weights": len(learner.model.variables),
        "initial": np.flatnonzero(learner.pool.acquired_at == 0).tolist(),
        "ignored": learner.num_ignored,
        "acquisition": learner.acquisition.__name__,
        "selector": repr(learner.selector),
        "label_filter": repr(learner.labelling.filter),
        "rejected": learner.labelling.rejected,
        "query_size": learner.query_size,
        "candidates": learner.candidates,
        "num_samples": learner.num_samples,
        "evaluation_samples": learner.evaluation_samples,
        "reinit": learner.refit.reinit,
        "steps": learner.refit.steps,
        "max_steps": learner.refit.max_steps,
        "batch_size": learner.refit.batch_size,
        "seed": learner.seed,
    }
