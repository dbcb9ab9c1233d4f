"""`tfp-bayes evaluate`: metrics of saved models on a data set, as a table and an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfp_bayes._plumbing.dataset_names import as_path, check_dataset_name
from tfp_bayes._plumbing.files import check_folder
from tfp_bayes._plumbing.model_files import model_files, model_name
from tfp_bayes._plumbing.quiet import start_tensorflow
from tfp_bayes.commands.pixels import check_divisor, say_scale, scaled
from tfp_bayes.commands.sampling import add_sampling

if TYPE_CHECKING:
    from tfp_bayes.datasets import Dataset

VALIDATION = "validation"


def add_evaluate(commands, at_least) -> None:
    """Add the command to a parser's subcommands.

    Args:
        commands: Subcommands of the parser.
        at_least: Function of an integer that returns a parser of integers of at least that value.
    """
    parser = commands.add_parser(
        "evaluate",
        help="evaluate saved models by every metric, with intervals",
        description="Evaluates saved models on the test set of a data set: every metric with its "
        "interval, paired differences between models, and plots. Writes report.html, which opens "
        "without a network, report.md and report.csv to DIR.",
    )
    parser.set_defaults(command=evaluate)
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="MODEL",
        help="model saved as .keras; with a weight posterior, MODEL.keras+POSTERIOR.npz",
    )
    add("--dataset", required=True, metavar="NAME|PATH", help="data set with the test set to use")
    add("--ood", metavar="NAME|PATH", help="data set of out-of-distribution inputs to detect")
    add(
        "--calibration",
        metavar="NAME|PATH",
        help="data to fit the temperature on: validation, for the validation set of --dataset, or "
        "another data set (its validation set, or else its test set) (default: cross-fitting)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="output folder")
    add_sampling(add, at_least)
    add("--divide-by", type=float, default=1.0, metavar="X", help="divide inputs by X")
    add("--target", metavar="COLUMN", help="column to predict, for a table")
    add("--task", choices=("classification", "regression"), help="task, for a table")
    add("--data-dir", help="folder of prepared TFDS data sets")
    add("--manual-dir", help="folder of manually downloaded files")


def evaluate(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    names = _check(options)
    start_tensorflow()
    from tfp_bayes._plumbing.files import write_text
    from tfp_bayes.evaluation import evaluate
    from tfp_bayes.evaluation.sources import as_predictor

    models = {name: as_predictor(path, name) for name, path in zip(names, options.models)}
    data = _load(options, options.dataset)
    _check_classes(options, data)
    if _is_image(data):
        for each in models.values():
            say_scale(getattr(each, "model", each), options.divide_by)
    with _Progress() as progress:
        report = evaluate(
            models,
            scaled(data.x_test, data.y_test, options.divide_by),
            _ood(options, data),
            _calibration(options, data),
            options.num_samples,
            options.seed,
            class_names=data.class_names or None,
            on_rows=progress.show,
        )
    report.to_csv(options.out / "report.csv")
    write_text(options.out / "report.md", report.table())
    report.to_html(options.out / "report.html")
    print(report.table(), end="")
    print(f"Wrote {options.out}: report.html, report.md, report.csv")
    return 0


def _check(options: argparse.Namespace) -> list[str]:
    """Check the options, as far as possible without TensorFlow, and return names of the models."""
    for path in options.models:
        model_files(path)
    names = [model_name(path) for path in options.models]
    if len(set(names)) < len(names):
        names = options.models
    check_divisor(options.divide_by)
    for name in (options.dataset, options.ood, options.calibration):
        if name not in (None, VALIDATION):
            check_dataset_name(name, options.data_dir)
    if options.calibration is not None and _is_same(options.calibration, options.dataset):
        raise ValueError(
            "Expected other examples than those of --dataset for --calibration. Received: "
            f"--calibration={options.calibration}, which is --dataset too. "
            f"Hint: use --calibration {VALIDATION}, or omit it."
        )
    check_folder(options.out)
    return names


def _is_same(name: str, other: str) -> bool:
    """Return whether two names of data sets are equal, or two spellings of one path."""
    one, two = as_path(name), as_path(other)
    return name == other if one is None or two is None else one.resolve() == two.resolve()


def _load(options: argparse.Namespace, name: str, **given: Any) -> Dataset:
    from tfp_bayes import datasets

    if as_path(name) is not None:
        given |= {"target": options.target, "task": options.task}
        if given.get("labels") is False:  # a folder of images without labels has no target
            given |= {"target": None, "task": None}
    return datasets.load(name, options.data_dir, options.manual_dir, **given)


def _check_classes(options: argparse.Namespace, data: Dataset) -> None:
    """Raise ValueError if a model was trained on classes with other names, or in another order.

    Otherwise, every metric would be wrong without an error. Classes without names are numbered.
    """
    from tfp_bayes.datasets.dataset import has_classes
    from tfp_bayes.studies.predictions import CLASS_NAMES, known_class_names

    for path in options.models:
        folder = model_files(path)[0].parent
        names = known_class_names(folder)
        if names is not None and not has_classes(data.class_names, names):
            raise ValueError(
                f"Expected the classes {names} of {folder / CLASS_NAMES} in --dataset, in that "
                f"order. Received: {list(data.class_names)}. Hint: name and number the classes of "
                "the data like those of the model, or correct the file if it belongs to another "
                "model."
            )


def _ood(options: argparse.Namespace, data: Dataset) -> Any:
    """Return the out-of-distribution inputs. Images are resized to the size of the data set's."""
    if options.ood is None:
        return None
    given: dict[str, Any] = {}
    path = as_path(options.ood)
    if _is_image(data) and (path is None or path.is_dir()):
        given["image_size"] = tuple(data.x_test.shape[1:3])
    if path is not None and path.is_dir():
        given |= {"channels": data.x_test.shape[3], "labels": False}
    other = _load(options, options.ood, **given)
    x = other.x_test if len(other.x_test) else other.x_train
    if x.shape[1:] != data.x_test.shape[1:]:
        raise ValueError(
            f"Expected inputs of the shape {data.x_test.shape[1:]} of --dataset for --ood. "
            f"Received: {x.shape[1:]} from {options.ood}. Hint: convert gray and color images to "
            "the same number of channels; otherwise the color alone would tell them apart."
        )
    return scaled(x, None, options.divide_by)


def _calibration(options: argparse.Namespace, data: Dataset) -> Any:
    from tfp_bayes.datasets.dataset import have_same_classes

    if options.calibration is None:
        return None
    is_own = options.calibration == VALIDATION
    held = data if is_own else _load(options, options.calibration)
    x, y = held.x_validation, held.y_validation
    if x is None and is_own:
        raise ValueError(
            f"Expected a data set with a validation set for --calibration {VALIDATION}. Received: "
            f"--dataset={options.dataset}, which has none. Hint: omit --calibration to fit the "
            "temperature of each half on the other one, or pass another data set."
        )
    if x is None:
        x, y = held.x_test, held.y_test
    one, other = held.class_names, data.class_names
    if not have_same_classes(one, other):
        raise ValueError(
            f"Expected the classes {list(other)} of --dataset for --calibration, in that order. "
            f"Received: {list(one)} from {options.calibration}. Hint: use the same names and order "
            "of classes in both data sets."
        )
    return scaled(x, y, options.divide_by)


def _is_image(data: Dataset) -> bool:
    return data.x_test.ndim == 4


class _Progress:
    """Progress bars on a terminal, one for each set of examples."""

    def __enter__(self) -> _Progress:
        from rich.progress import Progress

        self._progress = Progress(transient=True)
        self._progress.start()
        self._tasks: dict[str, Any] = {}
        return self

    def __exit__(self, *error) -> None:
        self._progress.stop()

    def show(self, what: str, done: int, total: int | None) -> None:
        """Show the number of examples predicted so far."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(f"predicting {what}", total=total)
        self._progress.update(self._tasks[what], completed=done)
