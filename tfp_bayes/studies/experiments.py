"""Experiments in TOML files: which methods are compared, on how many seeds, for how long."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tfp_bayes import datasets
from tfp_bayes.studies.report import read_history
from tfp_bayes.studies.runs import RunConfig, check_continues, run_active_learning


@dataclass(frozen=True)
class ExperimentConfig:
    """Methods to compare on the same seeds.

    Attributes:
        methods: Arguments of `RunConfig` by name of the method, without seed.
        seeds: Number of paired seeds, from 0.
        rounds: Rounds of acquisition of each run.
    """

    methods: dict[str, dict]
    seeds: int = 5
    rounds: int = 10


def load_experiment(path: str | Path) -> ExperimentConfig:
    """Reads an experiment from a TOML file.

    Top-level keys are `seeds`, `rounds` and arguments of `RunConfig` that all methods share;
    each table `[methods.NAME]` holds those of one method.

    Raises:
        ValueError: If a key is unknown or there is no method.
    """
    record = tomllib.loads(Path(path).read_text())
    methods = record.pop("methods", {})
    own = {name: record.pop(name) for name in ("seeds", "rounds") if name in record}
    known = set(RunConfig.__dataclass_fields__) - {"seed"}
    unknown = sorted({name for each in (record, *methods.values()) for name in each} - known)
    if unknown or not methods:
        raise ValueError(
            f"Expected `seeds`, `rounds`, tables [methods.NAME] and keys out of {sorted(known)} in "
            f"{path}. Received: {unknown or 'no method'}. Hint: see examples/study."
        )
    return ExperimentConfig(
        {name: _with_none({**record, **each}) for name, each in methods.items()}, **own
    )


def _with_none(arguments: dict) -> dict:
    """Replaces "none" by what TOML cannot say, as in `candidates = "none"`."""
    return {name: None if value == "none" else value for name, value in arguments.items()}


def run_one(config: ExperimentConfig, method: str, seed: int, folder: Path) -> None:
    """Completes one run of an experiment in its folder; does nothing if it is complete."""
    run = RunConfig(**config.methods[method], seed=seed)
    history = folder / "history.csv"
    if history.exists():
        check_continues(run, folder)
        if len(read_history(history)) > config.rounds:
            return
    run_active_learning(run, config.rounds, folder, data=_load_once(run.dataset), pictures=False)


@functools.lru_cache(maxsize=1)
def _load_once(dataset: str) -> datasets.Dataset:
    """Loads a data set that many runs of one process share and none changes."""
    return datasets.load(dataset)
