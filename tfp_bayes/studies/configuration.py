"""Configurations of runs and experiments, checked before TensorFlow starts or files are written."""

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

CHECKPOINT = "checkpoint.npz"  # checkpoint of a run, in its folder
POOL = "labeling.json"  # description of a run on images without labels, in its folder
ARCHITECTURES = ("gal", "kirsch")
# Inferences with a closed-form head, and the posterior of each head.
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
# Scores of the disagreement between samples, which is 0 for a deterministic model.
OF_SAMPLES = ("bald", "epig", "mean_std")

# Defaults of the command: BatchBALD with the network of its paper. The defaults of `RunConfig`
# itself are those of the study.
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
    """Configuration of a run. Equal configurations choose equal images on the same machine.

    Attributes:
        dataset: Name for `datasets.load`.
        pool_size: Use only the first `pool_size` training images. None uses all.
        acquisition: Name of the acquisition function.
        selector: Name of the selector that chooses a batch by its scores, or a dictionary with a
            name and arguments.
        architecture: See `BayesianCNN`.
        inference: See `BayesianCNN`; or "closed_form" or "closed_form_mean_field" for the features
            of a deterministic `BayesianCNN` with the head of `BayesianBasisRegression`.
        prior_scale: See `BayesianCNN`. A closed-form head has a fixed prior scale instead.
        query_size: Number of images acquired in each round.
        initial: How to choose the initial set: "balanced", "random", "kmeans" or
            "kmeans_unlabelled".
        initial_size: Number of images in the initial set.
        noise_rate: Share of wrong labels in the pool, at the same images for every method.
        label_filter: Name of a filter of labels, or a dictionary with a name and arguments.
        rejected: What to do with rejected labels; see `filters.Filter`.
        candidates: Number of random images of the pool scored in each round. None scores all.
        num_samples: Number of posterior samples for scores. None uses the model's default.
        evaluation_samples: Number of posterior samples for the test set. None uses as many as for
            scores.
        reinit: Weights from which each training starts; see `Refit`.
        steps: Number of optimizer steps in each round.
        seed: Integer from which all random numbers follow.

    Raises:
        ValueError: If a value has the wrong type or is out of range, a name is unknown, or two
            values contradict each other.
    """

    dataset: str = option("mnist", "mnist, or any image classification data set of TFDS")
    pool_size: int | None = option(
        None, "use only the first N training images", least=1, absent="all", metavar="N"
    )
    acquisition: str = option("bald", "score of each image", choices=ACQUISITIONS)
    selector: str | dict = option("top_k", "how to choose a batch by scores", choices=SELECTORS)
    architecture: str = option("gal", "architecture of BayesianCNN", choices=ARCHITECTURES)
    inference: str = option("mc_dropout", "inference method", choices=INFERENCES)
    prior_scale: float | None = option(
        1.0, "scale of the weights' prior; inf is a flat one", above=0, absent="inf", metavar="S"
    )
    query_size: int = option(10, "images acquired per round", least=1, metavar="Q")
    initial: str = option("balanced", "how to choose the initial set", choices=INITIAL)
    initial_size: int = option(20, "images in the initial set", least=1, metavar="N")
    noise_rate: float = option(0.0, "share of wrong labels", least=0, most=1, metavar="P")
    label_filter: str | dict | None = option(
        None, "filter that decides which labels to keep, or all", choices=FILTERS, absent="all"
    )
    rejected: str = option("skip", "what to do with rejected labels", choices=REJECTED)
    candidates: int | None = option(
        2000, "random pool images scored per round, or all", least=1, absent="all", metavar="N"
    )
    num_samples: int | None = option(
        None, "posterior samples for scores", least=1, absent="the model's", metavar="S"
    )
    evaluation_samples: int | None = option(
        None, "posterior samples for the test set", least=1, absent="as many", metavar="S"
    )
    reinit: str = option("fresh", "initial weights of each training", choices=REINIT)
    steps: int = option(200, "optimizer steps per round", least=1, metavar="N")
    seed: int = option(0, "seed of all random numbers", least=0, metavar="N")

    def __post_init__(self):
        check_fields(self)
        # Constructed only to check their arguments. Imported here because they import NumPy, which
        # listing the options must not wait for.
        from tfp_bayes.active import filters, selectors

        selectors.get(self.selector)
        filters.get(self.label_filter, self.rejected)
        if self.candidates is not None and self.candidates < self.query_size:
            raise ValueError(
                "Expected `candidates` to be at least `query_size`. Received: "
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
                f"Received: acquisition={self.acquisition!r}, which is 0 for a deterministic "
                "model. Hint: acquisition='max_entropy'."
            )


def complete(given: dict[str, Any]) -> RunConfig:
    """Return the configuration of a command: the given fields, the others as in `FIRST_RUN`.

    BatchBALD ignores the acquisition function and needs samples of a classifier, so `selector` has
    the default of `RunConfig` if another acquisition or inference is given. A flat prior suits only
    dropout, so `prior_scale` has it if another inference is given.

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
    """Configuration of an experiment, which compares methods on the same seeds.

    Attributes:
        methods: For the name of each method, arguments of `RunConfig` except the seed.
        seeds: Number of paired seeds, which count from 0.
        rounds: Number of rounds of acquisition in each run.

    Raises:
        ValueError: If there is no method, or a value is invalid.
    """

    methods: dict = option(None, "at least one table [methods.NAME]")
    seeds: int = option(5, "paired seeds", least=1, metavar="N")
    rounds: int = option(10, "rounds of acquisition of each run", least=0, metavar="R")

    def __post_init__(self):
        check_fields(self)
        if not self.methods:
            raise ValueError(
                "Expected at least one method for `methods`. Received: no method. "
                "Hint: add a table [methods.NAME], which may be empty."
            )


def load_experiment(path: str | Path) -> ExperimentConfig:
    """Read an experiment from a TOML file.

    Top-level keys are `seeds`, `rounds` and arguments of `RunConfig` that all methods share. Each
    table `[methods.NAME]` holds the arguments of one method.

    Raises:
        ValueError: If the file is not TOML, a key is unknown, a value is invalid or there is no
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
    """Return the configuration of the run in a folder.

    Raises:
        ValueError: If the folder holds no run, or this version cannot read its configuration.
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
