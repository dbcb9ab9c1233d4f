"""`tfp-bayes score`: scores of every row in a pool of any size, and the highest ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfp_bayes._plumbing.files import check_folder
from tfp_bayes.commands.engine import add_engine, engine_arguments
from tfp_bayes.commands.pixels import check_divisor
from tfp_bayes.commands.sampling import add_sampling
from tfp_bayes.scale.names import SCORES

if TYPE_CHECKING:
    from tfp_bayes.scale import RowSource, ScoredPool


def add_score(commands, at_least) -> None:
    """Add the command to a parser's subcommands.

    Args:
        commands: Subcommands of the parser.
        at_least: Function of an integer that returns a parser of integers of at least that value.
    """
    parser = commands.add_parser(
        "score",
        help="score a pool of any size, in parts, on several cores or a Ray cluster",
        description="Scores every row of a pool with a saved model, in parts. Writes the parts as "
        "Parquet files, summary.json, and top.csv with the highest scores to DIR. The same "
        "command continues a run that was stopped or killed.",
    )
    parser.set_defaults(command=score)
    add = parser.add_argument
    add("model", type=Path, help="SavedModel written by export, or .keras file")
    add("rows", type=Path, help=".npy file, .parquet file, folder of .parquet files or of images")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of this run")
    add_sampling(add, at_least, 100)
    add(
        "--acquisition",
        choices=SCORES,
        default="bald",
        metavar="NAME",
        help=f"name of the score: {', '.join(SCORES)} (default bald)",
    )
    add(
        "--likelihood",
        choices=("categorical", "bernoulli", "normal"),
        metavar="NAME",
        help="meaning of a SavedModel's outputs (default categorical); a .keras file states it",
    )
    add("--top", type=at_least(1), default=10_000, metavar="K", help="rows in top.csv (10000)")
    add(
        "--rows-per-part",
        type=at_least(1),
        default=65_536,
        metavar="N",
        help="rows per part (65536)",
    )
    add("--no-mean", action="store_true", help="leave predictive means out of the parts")
    add_engine(add, at_least, "local", None)
    rows = parser.add_argument_group("rows").add_argument
    rows("--labels", metavar="NAME", help="column of a Parquet file, or a .npy file, with labels")
    rows("--image-size", type=at_least(1), metavar="N", help="resize images to N x N pixels")
    rows("--channels", type=int, choices=(1, 3, 4), help="convert images to this many channels")
    rows("--divide-by", type=float, default=1.0, metavar="X", help="divide pixels, 0 to 255, by X")
    rows("--skip-bad", action="store_true", help="count unreadable images as non-finite rows")


def score(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from tfp_bayes.scale import score_pool

    check_divisor(options.divide_by)
    check_folder(options.out)
    rows = _rows(options)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("parts", total=None)
        pool = score_pool(
            options.model,
            rows,
            options.out,
            num_samples=options.num_samples,
            seed=options.seed,
            acquisition=options.acquisition,
            likelihood=options.likelihood,
            top=options.top,
            rows_per_part=options.rows_per_part,
            keep_mean=not options.no_mean,
            **engine_arguments(options),
            on_part=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for line in _describe(pool, options):
        print(line)
    return 0


def _rows(options: argparse.Namespace) -> RowSource:
    """Return the row source for a path, depending on the type of its files."""
    from tfp_bayes.scale import ImageFolder, NpyRows, ParquetRows

    found: RowSource
    path: Path = options.rows.expanduser()
    of_images: dict[str, Any] = {
        "image_size": None if options.image_size is None else (options.image_size,) * 2,
        "channels": options.channels,
        "divide_by": options.divide_by,
        "skip_bad": options.skip_bad,
    }
    if path.suffix.lower() == ".npy":
        kind, found = "a .npy file", NpyRows(path, options.labels)
    elif path.suffix.lower() == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet"))):
        kind, found = "Parquet files", ParquetRows(path, label=options.labels)
    elif path.is_dir():
        if options.labels is not None:
            raise ValueError(
                "Expected no --labels with a folder of images. Received: --labels="
                f"{options.labels}. Hint: `tfp-bayes evaluate` evaluates a model on labeled images."
            )
        return ImageFolder(path, **of_images)
    else:
        raise ValueError(
            f"Expected a .npy or .parquet file, or a folder. Received: {options.rows}. "
            "Hint: save the array of a .npz archive with np.save('pool.npy', archive['x'])."
        )
    given = [name for name, value in of_images.items() if value not in (None, False, 1.0)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(
            f"Expected no {names} with {kind}. Received: {options.rows}. "
            "Hint: these options are for folders of images."
        )
    return found


def _describe(pool: ScoredPool, options: argparse.Namespace) -> list[str]:
    summary = pool.summary
    lines = [
        f"{summary.num_rows} rows, {summary.num_non_finite} of them without finite scores; mean "
        f"mutual information {summary.mean('mutual_information'):.4f} nats, predictive entropy "
        f"{summary.mean('predictive_entropy'):.4f} nats"
    ]
    if summary.labelled:
        lines.append(
            f"accuracy {summary.accuracy:.2%}, NLL {summary.nll:.4f} nats, calibration error "
            f"{summary.expected_calibration_error:.4f}"
        )
    return [*lines, f"Wrote {options.out}: parts/, summary.json, top.csv"]
