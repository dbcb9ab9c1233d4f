"""Baseline runs, which differ from a run only in how examples are acquired."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tfp_bayes.active import Query
from tfp_bayes.active.round import Round
from tfp_bayes.studies.configuration import RunConfig, load_config
from tfp_bayes.studies.curves import LEVELS, images_to_error
from tfp_bayes.studies.report import read_history


def baseline(config: RunConfig, acquisition: str) -> RunConfig | None:
    """Return the configuration of a run that acquires the highest scores and is otherwise equal.

    Args:
        config: Configuration of the run to compare with the baseline.
        acquisition: Name of the baseline's acquisition function, such as "random".

    Returns:
        A configuration with the same seed and initial set, or None if `config` is itself that
        baseline.
    """
    if method_of(config) == acquisition:
        return None
    found = dataclasses.replace(config, acquisition=acquisition, selector="top_k")
    if acquisition == "random":  # a random subset is as good, and saves the scores of the others
        found = dataclasses.replace(found, candidates=config.query_size)
    return found


def method_of(config: RunConfig) -> str:
    """Return the display name of a run's method. See `Query.method`."""
    return Query(config.acquisition, config.selector).method


def read_baselines(folder: Path) -> dict[str, list[Round]]:
    """Return the histories of the runs in the subfolders of a run's folder, by method."""
    return {
        method_of(load_config(path.parent)): read_history(path)
        for path in sorted(folder.glob("*/history.csv"))
    }


def describe(method: str, history: Sequence[Round]) -> str:
    """Return a one-line summary of a run.

    Example:

    >>> from tfp_bayes.active import Round
    >>> from tfp_bayes.studies.baseline import describe
    >>> describe("random", [Round(0, 20, 0, 0.8), Round(1, 30, 10, 0.92)])
    'random     test accuracy 92.00% with 30 labels; 10 % error with 28, 5 % error not reached'
    """
    last, parts = history[-1], []
    for level in LEVELS:
        acquired = images_to_error(history, level)
        labels = history[0].num_labelled + (0 if acquired is None else acquired)
        reached = "not reached" if acquired is None else f"with {labels:.0f}"
        parts.append(f"{100 * level:.0f} % error {reached}")
    accuracy = f"test accuracy {last.test_accuracy:.2%} with {last.num_labelled} labels"
    return f"{method:10s} {accuracy}; {', '.join(parts)}"
