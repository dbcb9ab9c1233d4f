"""`tfp-bayes predict`: predictions for a folder of images, as a table sorted by uncertainty."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfp_bayes._plumbing.quiet import start_tensorflow
from tfp_bayes.commands.image_model import (
    add_image_model,
    add_uncertainty,
    check_model_file,
    class_names_of,
    image_shape,
    num_classes_of,
    predict_classes,
)
from tfp_bayes.commands.pixels import BATCH, check_divisor, say_scale, scaled

if TYPE_CHECKING:
    from tfp_bayes.datasets import ImageFiles
    from tfp_bayes.datasets.image_files import ImageHeader
    from tfp_bayes.prediction import Prediction


def add_predict(commands, at_least) -> None:
    """Add the command to a parser's subcommands.

    Args:
        commands: Subcommands of the parser.
        at_least: Function of an integer that returns a parser of integers of at least that value.
    """
    parser = commands.add_parser(
        "predict",
        help="classify a folder of images, the most uncertain first",
        description="Classifies a folder of images with a saved model. TABLE has one row per "
        "file: class, confidence, predictive entropy, expected entropy and mutual information in "
        "nats. The most uncertain images come first; TABLE.png shows them.",
    )
    parser.set_defaults(command=predict)
    add = parser.add_argument
    add_image_model(add, at_least)
    add("images", type=Path, help="folder of images, including its subfolders")
    add("--out", type=Path, required=True, metavar="TABLE", help="CSV file to write")
    add_uncertainty(add, "--sort-by")
    add("--resize", action="store_true", help="resize and convert images that do not fit the model")
    add("--skip-bad", action="store_true", help="leave out unreadable files, with a warning")


def predict(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    _check(options)
    images, headers, skipped = _find(options)
    start_tensorflow()
    from tfp_bayes._plumbing.files import write_png
    from tfp_bayes.evaluation.sources import as_predictor
    from tfp_bayes.studies.predictions import plot_least_certain, write_predictions

    predictor = as_predictor(options.model, "MODEL")
    model = getattr(predictor, "model", predictor)
    images = _fit_to(images, headers, image_shape(model), options.resize)
    class_names = class_names_of(options.model, options.classes, num_classes_of(model))
    say_scale(model, options.divide_by)
    prediction = _predict(predictor, images, class_names, options)
    names = images.names.tolist()
    sheet = options.out.with_suffix(".png")
    figure = plot_least_certain(images, names, prediction, class_names, options.sort_by)
    write_png(sheet, figure)
    # The table is written last, so if it exists, the command has finished.
    write_predictions(options.out, names, prediction, class_names, options.sort_by)
    left_out = f", {len(skipped)} left out" if skipped else ""
    print(f"Wrote {options.out}: {len(images)} images{left_out}; and {sheet}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Check the options, as far as possible without TensorFlow."""
    check_model_file(options.model)
    if options.out.suffix == ".png" or options.out.is_dir():
        raise ValueError(
            f"Expected a CSV file for --out. Received: --out={options.out}. "
            "Hint: use --out table.csv; the images are written to table.png."
        )
    check_divisor(options.divide_by)


def _predict(
    predictor: Any, images: ImageFiles, class_names: list[str], options: argparse.Namespace
) -> Prediction:
    """Return the prediction of all images. Show the first one as soon as it is known."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from tfp_bayes.prediction import concatenate

    columns = *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()
    parts: list[Prediction] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("images", total=len(images))
        for start in range(0, len(images), BATCH):
            x = scaled(images[start : start + BATCH], None, options.divide_by)
            parts.append(predict_classes(predictor, x, options.num_samples, options.seed))
            progress.update(task, advance=len(x))
            if start == 0 and len(x) < len(images):
                mean = parts[0].mean[0]
                first = f"{images.names[0]}: {class_names[mean.argmax()]}, {mean.max():.0%}"
                progress.print(first, markup=False, highlight=False, soft_wrap=True)
    return concatenate(parts)


def _find(options: argparse.Namespace) -> tuple[ImageFiles, list[ImageHeader], list[str]]:
    """Return the images of the folder, their individual shapes, and the files left out."""
    from tfp_bayes.datasets.folder import find, read_headers
    from tfp_bayes.datasets.image_files import ImageFiles
    from tfp_bayes.datasets.options import FileOptions

    if not options.images.is_dir():
        raise ValueError(
            f"Expected a folder of images. Received: {options.images}. "
            "Hint: paths are relative to the current folder."
        )
    settings = FileOptions(labels=False, skip_bad=options.skip_bad)
    found = find(options.images, settings)
    headers = read_headers(found, settings)
    for reason in found.skipped:
        print(f"Left out {reason}", file=sys.stderr)
    return ImageFiles(found.paths, (1, 1, 1), found.folder), headers, found.skipped


def _fit_to(
    images: ImageFiles, headers: list[ImageHeader], wanted: tuple[int | None, ...], resize: bool
) -> ImageFiles:
    """Return the images in the input shape of a model.

    Raises:
        ValueError: If some images have another shape and `resize` is False.
    """
    from tfp_bayes.datasets.image_files import ImageFiles, one_shape

    sizes = [(each.height, each.width, each.channels) for each in headers]
    height, width, channels = wanted
    if height is None or width is None:  # any size, but the same for all images
        shape = one_shape(headers, images.names.tolist(), None, channels)
        wanted = (height or shape[0], width or shape[1], channels)
    others = [i for i, size in enumerate(sizes) if size != wanted]
    if others:
        size = " x ".join(map(str, sizes[others[0]]))
        takes = " x ".join(map(str, wanted))
        example = f"{len(others)} of {len(images)} of another shape, such as {size}"
        example += f" of {images.names[others[0]]}"
        if not resize:
            raise ValueError(
                f"Expected images of {takes} (height, width, channels), the input shape of the "
                f"model. Received: {example}. Hint: add --resize to resize and convert them."
            )
        print(f"Resizing to {takes}: {example}", file=sys.stderr)
    return ImageFiles(images.paths, wanted, images.folder)  # type: ignore[arg-type]
