"""Runs of the experiments that TOML files describe."""

import functools
from pathlib import Path

from tfp_bayes import datasets
from tfp_bayes.studies.configuration import ExperimentConfig, RunConfig
from tfp_bayes.studies.runs import (
    check_continues,
    check_same_data,
    digest_data,
    num_complete_rounds,
    run_active_learning,
)


def run_one(config: ExperimentConfig, method: str, seed: int, folder: Path) -> None:
    """Complete one run of an experiment in its folder. Only check its data if it is complete."""
    run = RunConfig(**config.methods[method], seed=seed)
    if (folder / "config.json").exists():
        check_continues(run, folder)
        if num_complete_rounds(folder) > config.rounds:
            check_same_data(folder, _digest_once(run.dataset))
            return
    run_active_learning(run, config.rounds, folder, data=_load_once(run.dataset), pictures=False)


@functools.lru_cache(maxsize=1)
def _load_once(dataset: str) -> datasets.Dataset:
    """Load a data set once for all runs of a process, none of which changes it."""
    return datasets.load(dataset)


@functools.lru_cache(maxsize=1)
def _digest_once(dataset: str) -> str:
    return digest_data(_load_once(dataset))
