"""Configurations of runs and experiments, checked before TensorFlow starts or a folder exists."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfp_bayes._plumbing.options import check_fields, from_record, option
from tfp_bayes.active.built_in import (
    ACQUISITIONS,
    FILTERS,
    INITIAL,
    REINIT,
    REJECTED,
    SELECTORS,
)

CHECKPOINT = "checkpoint.npz"  # of a run, in its folder
POOL = "labeling.json"  # what a run on images without labels is
ARCHITECTURES = ("gal", "kirsch")
# Closed-form heads, and the posterior of each.
CLOSED_FORM = {"closed_form": "matrix_normal", "closed_form_mean_field": "mean_field"}
INFERENCES = (
    "mc_dropout",
    "concrete_dropout",
    "flipout",
    "local_reparameterization",
    "reparameterization",
    *CLOSED_FORM,
    "deterministic",
)
# Scores of what samples disagree on, which is nothing where there is one function.
OF_SAMPLES = ("bald", "epig", "mean_std")

# What the command runs if nothing is said: BatchBALD with the network of its paper. The defaults of
# `RunConfig` are those of the study.
FIRST_RUN = {
    "selector": "batch_bald",
    "architecture": "kirsch",
    "prior_scale": None,
    "initial": "kmeans",
    "num_samples": 100,
    "evaluation_samples": 20,
}


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a run; equal ones choose equal images on one machine.

    Attributes:
        dataset: Name for `datasets.load`.
        pool_size: Training images that take part, the first so many; None for all.
        acquisition: Name of an acquisition function.
        selector: Name of the rule that makes a batch of its scores, or a dictionary with a name
            and arguments.
        architecture: `BayesianCNN(architecture=)`.
        inference: `BayesianCNN(inference=)`; or "closed_form" or "closed_form_mean_field", its
            features under the head of `BayesianBasisRegression`.
        prior_scale: `BayesianCNN(prior_scale=)`; a closed-form head has its own.
        query_size: Images acquired a round.
        initial: How these are chosen: "balanced", "random", "kmeans" or "kmeans_unlabelled".
        initial_size: Images labelled at the start.
        noise_rate: Share of the pool's labels that are wrong, the same images for every method.
        label_filter: Name of a filter of labels, or a dictionary with a name and arguments.
        rejected: What becomes of the labels it rejects, see `filters.Filter`.
        candidates: Random pool images scored a round, None for all.
        num_samples: Posterior samples for scores, None for the model's own.
        evaluation_samples: Posterior samples for the test set, None for as many.
        reinit: Where each training starts, see `Refit`.
        steps: Optimizer steps a round.
        seed: Decides everything random.

    Raises:
        ValueError: If a value is of another type or out of range, a name is unknown, or two
            values contradict each other.
    """

    dataset: str = option("mnist", "mnist, or any image-classification set of TFDS")
    pool_size: int | None = option(
        None, "the first N training images", least=1, absent="all", metavar="N"
    )
    acquisition: str = option("bald", "what a label is worth", choices=ACQUISITIONS)
    selector: str | dict = option("top_k", "how a batch is made of scores", choices=SELECTORS)
    architecture: str = option("gal", "of BayesianCNN", choices=ARCHITECTURES)
    inference: str = option("mc_dropout", "what is random", choices=INFERENCES)
    prior_scale: float | None = option(
        1.0, "scale of the weights' prior, inf is a flat one", above=0, absent="inf", metavar="S"
    )
    query_size: int = option(10, "images acquired a round", least=1, metavar="Q")
    initial: str = option("balanced", "how the first images are chosen", choices=INITIAL)
    initial_size: int = option(20, "images labelled at the start", least=1, metavar="N")
    noise_rate: float = option(0.0, "share of wrong labels", least=0, most=1, metavar="P")
    label_filter: str | dict | None = option(
        None, "which labels are believed", choices=FILTERS, absent="all"
    )
    rejected: str = option("skip", "what becomes of the other labels", choices=REJECTED)
    candidates: int | None = option(
        2000, "random pool images scored a round, or all", least=1, absent="all", metavar="N"
    )
    num_samples: int | None = option(
        None, "posterior samples", least=1, absent="the model's", metavar="S"
    )
    evaluation_samples: int | None = option(
        None, "posterior samples for the test set", least=1, absent="as many", metavar="S"
    )
    reinit: str = option("fresh", "where each training starts", choices=REINIT)
    steps: int = option(200, "optimizer steps a round", least=1, metavar="N")
    seed: int = option(0, "decides everything random", least=0, metavar="N")

    def __post_init__(self):
        check_fields(self)
        # Made for their arguments' sake. These import NumPy, which listing the options does not.
        from tfp_bayes.active import filters, selectors

        selectors.get(self.selector)
        filters.get(self.label_filter, self.rejected)
        if self.candidates is not None and self.candidates < self.query_size:
            raise ValueError(
                "Expected `candidates` not below `query_size`. Received: "
                f"candidates={self.candidates}, query_size={self.query_size}. "
                "Hint: candidates=None scores the whole pool."
            )
        if self.inference in CLOSED_FORM and self.label_filter is not None:
            raise ValueError(
                "Expected an inference that predicts probabilities with `label_filter`. Received: "
                f"inference={self.inference!r}, label_filter={self.label_filter!r}. "
                "Hint: inference='mc_dropout'."
            )
        if self.inference == "deterministic" and self.acquisition in OF_SAMPLES:
            raise ValueError(
                f"Expected an acquisition other than {OF_SAMPLES} with inference='deterministic'. "
                f"Received: acquisition={self.acquisition!r}, which is 0 wherever there is one "
                "function. Hint: acquisition='max_entropy'."
            )


def complete(given: dict[str, Any]) -> RunConfig:
    """Returns the run of a command that was given some fields, the others as in `FIRST_RUN`.

    BatchBALD reads no score and wants samples of a classifier, and a flat prior suits dropout
    alone: where another acquisition or inference is given, both are as in `RunConfig`.

    Args:
        given: Fields of `RunConfig` by name.

    Example:

    >>> from tfp_bayes.studies.configuration import complete
    >>> complete({"seed": 3}).selector, complete({"acquisition": "random"}).selector
    ('batch_bald', 'top_k')
    """
    defaults = dict(FIRST_RUN)
    if given.get("acquisition", "bald") != "bald":
        del defaults["selector"]
    if given.get("inference", "mc_dropout") != "mc_dropout":
        defaults.pop("selector", None)
        del defaults["prior_scale"]
    return RunConfig(**{**defaults, **given})


@dataclass(frozen=True)
class ExperimentConfig:
    """Methods to compare on the same seeds.

    Attributes:
        methods: Arguments of `RunConfig` by name of the method, without seed.
        seeds: Number of paired seeds, from 0.
        rounds: Rounds of acquisition of each run.

    Raises:
        ValueError: If there is no method, or a value is wrong.
    """

    methods: dict = option(None, "at least one table [methods.NAME]")
    seeds: int = option(5, "paired seeds", least=1, metavar="N")
    rounds: int = option(10, "rounds of acquisition of each run", least=0, metavar="R")

    def __post_init__(self):
        check_fields(self)
        if not self.methods:
            raise ValueError(
                "Expected at least one method for `methods`. Received: no method. "
                "Hint: a table [methods.NAME] may be empty."
            )


def load_experiment(path: str | Path) -> ExperimentConfig:
    """Reads an experiment from a TOML file.

    Top-level keys are `seeds`, `rounds` and arguments of `RunConfig` that all methods share;
    each table `[methods.NAME]` holds those of one method.

    Raises:
        ValueError: If the file is not TOML, a key is unknown, a value is wrong or there is no
            method.
    """
    try:
        record = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"Expected TOML in {path}. Received: {error}. Hint: see examples/study."
        ) from None
    methods = record.pop("methods", {})
    own: dict[str, Any] = {name: record.pop(name) for name in ("seeds", "rounds") if name in record}
    if not isinstance(methods, dict) or not all(isinstance(m, dict) for m in methods.values()):
        raise ValueError(
            f"Expected tables [methods.NAME] in {path}. Received: methods={methods!r}. "
            "Hint: see examples/study."
        )
    if "seed" in record or any("seed" in method for method in methods.values()):
        raise ValueError(
            f"Expected `seeds`, the number of paired seeds, in {path}. Received: ['seed']. "
            "Hint: every method runs with every seed."
        )
    arguments: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        each = {**record, **method}
        config = from_record(RunConfig, each, f"method {name!r} of {path}")
        arguments[name] = {key: getattr(config, key) for key in each}
    return from_record(ExperimentConfig, {"methods": arguments, **own}, str(path))


def load_config(folder: str | Path) -> RunConfig:
    """Returns the configuration of the run in a folder.

    Raises:
        ValueError: If there is none, or it is not one of this version.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ValueError(
            f"Expected a run in {folder}. Received: no {path.name} there. "
            "Hint: leave out --resume to start one."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"Expected the configuration of a run in {path}. Received: {error}. "
            "Hint: repair the file, or start again in another folder."
        ) from None
    return from_record(RunConfig, record, str(path))
