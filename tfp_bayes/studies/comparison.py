"""Experiments: several methods run on the same seeds, with tables and plots of the results."""

import csv
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tfp_bayes._plumbing.files import (
    number_or_none,
    remove_unfinished,
    write_csv,
    write_json,
    write_png,
    write_text,
)
from tfp_bayes._plumbing.lock import Lock
from tfp_bayes._plumbing.workers import check_engine, check_is_main, run_all
from tfp_bayes.active.round import Round, filter_quality
from tfp_bayes.studies.curves import (
    LEVELS,
    Interval,
    level_name,
    mean_area,
    mean_crossing,
    paired_difference,
)
from tfp_bayes.studies.report import learning_curve_axes, read_history, read_round

DIFFERENCES = ("difference", "difference_in_first_half", "difference_in_second_half")
Run = Callable[[str, int, Path], None]
Histories = dict[str, dict[int, list[Round]]]  # keys: method, then seed


def run_experiment(
    run: Run,
    methods: Sequence[str],
    seeds: Sequence[int],
    folder: str | Path,
    *,
    workers: int | None = 1,
    engine: str = "processes",
    gpus_per_worker: float = 0,
    on_run: Callable[[str, int], None] | None = None,
) -> Histories:
    """Run every method with every seed, or complete an interrupted experiment, and report.

    Seeds are paired: whatever does not belong to the method (initial set, noise) must follow from
    the seed alone. The experiment's folder will contain a folder for each run, and `results.csv`
    (one row for each method, seed and round), `summary.json`, `summary.md` and
    `learning_curves.png`, which are updated whenever a run completes.

    Args:
        run: Function `run(method, seed, folder)` that completes one run in its folder, resumes it
            if it was interrupted, and writes its rounds to `history.csv`. With more than one
            worker, it must be a module-level function or a `functools.partial` of one. Each
            worker gets it once.
        methods: Names of the methods. The first is the baseline of the comparison.
        seeds: Integers.
        folder: Folder of the experiment.
        workers: Number of runs in parallel. None starts one per core or, with `gpus_per_worker`,
            as many as the GPUs allow.
        engine: "processes" (on this machine; one worker is this process itself) or "ray" (actors
            on the cluster of `ray.init`, else of RAY_ADDRESS, else this machine, whose machines
            can all reach `folder`). "local" is this process.
        gpus_per_worker: Number of GPUs per actor, with Ray.
        on_run: Function that is called with the method and seed of each completed run.

    Returns:
        The history of each run, by method and seed.

    Raises:
        ValueError: If two methods would share a folder, or an argument is out of range.
        OSError: If another process runs this experiment, or if three workers were killed in the
            same run (`ChildProcessError`).
    """
    check_engine(engine, workers, gpus_per_worker)
    check_is_main()
    folder = Path(folder).absolute()  # workers may be in other folders
    names = {method: _file_name(method) for method in methods}
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"Expected `methods` whose folders have different names. Received: {names}. "
            "Hint: let the names differ in letters or digits."
        )
    folders = {(m, s): folder / names[m] / f"seed-{s}" for s in seeds for m in methods}
    lock = Lock(folder / "experiment.lock", folder)
    lock.acquire()
    remove_unfinished(folder)
    histories: Histories = {method: {} for method in methods}

    def on_end(key: tuple[str, int]) -> None:
        method, seed = key
        histories[method][seed] = read_history(folders[key] / "history.csv")
        write_results({m: h for m, h in histories.items() if h}, folder)
        if on_run is not None:
            on_run(method, seed)

    run_all(
        functools.partial(_run_in_folder, run, folders),
        list(folders),
        on_end,
        engine=engine,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
    )
    lock.release()
    return histories


def _run_in_folder(run: Run, folders: dict[tuple[str, int], Path], key: tuple[str, int]) -> None:
    run(*key, folders[key])


def write_results(histories: Histories, folder: Path) -> None:
    """Write results.csv, summary.json, summary.md and learning_curves.png into a folder."""
    write_csv(
        folder / "results.csv",
        ["method", "seed", *(field.name for field in dataclasses.fields(Round))],
        [
            (method, seed, *dataclasses.astuple(row))
            for method, runs in histories.items()
            for seed, history in sorted(runs.items())
            for row in history
        ],
    )
    table = summarize(histories)
    write_json(folder / "summary.json", table)
    write_text(folder / "summary.md", to_markdown(table))
    write_png(folder / "learning_curves.png", plot(histories))


def read_results(path: str | Path) -> Histories:
    """Return the histories of a results.csv, in the order of its methods.

    Raises:
        ValueError: If the file has other columns.
    """
    fields = {field.name for field in dataclasses.fields(Round)}
    histories: Histories = {}
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            method, seed = row.pop("method", None), row.pop("seed", None)
            if method is None or seed is None or not set(row) <= fields:
                raise ValueError(
                    f"Expected columns `method` and `seed`, and attributes of Round, in {path}. "
                    f"Received: {list(row)}. Hint: `tfp-bayes experiment` writes such a file."
                )
            histories.setdefault(method, {}).setdefault(int(seed), []).append(read_round(row))
    return histories


def summarize(histories: Histories) -> dict[str, dict]:
    """Compute the statistics of each method, with 95 % intervals as [estimate, low, high].

    None stands for a level that was not reached, and for both ends of an interval from one seed.

    Args:
        histories: Histories of at least one run. The first method is the baseline.

    Returns:
        For each method: the number of seeds; the first and last error of the mean curve and the
        labels acquired at its end; "area", the error averaged over the labels acquired; the
        crossings of each level by the mean curve; the difference of its error to the baseline's on
        the seeds that both have, averaged over all rounds and over the first and second half of
        them; the final negative log likelihood on the validation set, by which a method can be
        chosen; and the statistics of the filter.
    """
    baseline, *_ = histories
    table = {}
    for method, runs in histories.items():
        acquired, errors = error_curves(runs, sorted(runs))
        row = {
            "seeds": len(runs),
            "first_error": float(errors[:, 0].mean()),
            "last_error": float(errors[:, -1].mean()),
            "last_acquired": float(acquired[-1]),
            "area": _as_json(mean_area(acquired, errors)),
        }
        for level in LEVELS:
            row[level_name(level)] = _as_json(mean_crossing(acquired, errors, level))
        shared = sorted(set(runs) & set(histories[baseline]))
        if shared:
            ours, theirs = (error_curves(h, shared)[1] for h in (runs, histories[baseline]))
            # Compare by round, not by labels acquired: a rejected answer costs as much as others.
            both = np.arange(min(ours.shape[1], theirs.shape[1]))
            first, second = np.array_split(both, 2)
            for name, part in zip(DIFFERENCES, (both, first, second)):
                if part.size:
                    difference = paired_difference(part, ours[:, part], theirs[:, part])
                    row[name] = _as_json(difference)
        last = np.mean([history[len(acquired) - 1].validation_nll for history in runs.values()])
        row["last_validation_nll"] = number_or_none(float(last))
        rounds = [each for history in runs.values() for each in history if each.num_asked]
        row["filter"] = {
            "rejected_per_round": sum(r.num_rejected for r in rounds) / max(len(rounds), 1),
            "wrong_per_round": number_or_none(
                sum(r.num_wrong for r in rounds) / max(len(rounds), 1)
            ),
            **{name: number_or_none(value) for name, value in filter_quality(rounds).items()},
        }
        table[method] = row
    return table


def error_curves(runs: dict[int, list[Round]], seeds: Sequence[int]):
    """Return labels acquired (R,), averaged over seeds, and test errors (M, R) of M seeds."""
    length = min(len(runs[seed]) for seed in seeds)
    acquired = np.array([[row.num_acquired for row in runs[s][:length]] for s in seeds])
    errors = np.array([[1 - row.test_accuracy for row in runs[s][:length]] for s in seeds])
    return acquired.mean(0), errors


def to_markdown(table: dict[str, dict]) -> str:
    """Format the table of `summarize` as Markdown."""
    levels = [level_name(level) for level in LEVELS]
    baseline, *_ = table
    lines = [
        "| method | seeds | test accuracy at the start | at the end | images to 10 % error "
        f"| to 5 % | average error minus that of {baseline} | in the first half | in the second |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, row in table.items():
        differences = [None if method == baseline else row.get(name) for name in DIFFERENCES]
        cells = [
            method,
            str(row["seeds"]),
            f"{1 - row['first_error']:.2%}",
            f"{1 - row['last_error']:.2%} ({row['last_acquired']:.0f} acquired)",
            *(_shown(row[level], "{:.0f}", row["seeds"]) for level in levels),
            *(_shown(each, "{:+.2%}", row["seeds"]) if each else "" for each in differences),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if any(row["filter"]["rejected_per_round"] for row in table.values()):
        names = ["rejected_per_round", "wrong_per_round", "precision", "recall", "excess"]
        titles = [name.replace("_", " ") for name in names]
        lines += ["", f"| method | {' | '.join(titles)} |", "|---" * (len(names) + 1) + "|"]
        for method, row in table.items():
            values = [row["filter"][name] for name in names]
            cells = ["" if value is None else f"{value:.2f}" for value in values]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    validated = {m: row["last_validation_nll"] for m, row in table.items()}
    validated = {m: nll for m, nll in validated.items() if nll is not None}
    if len(validated) > 1:
        best = min(validated, key=lambda method: validated[method])
        least = f"{best} ({validated[best]:.3f})"
        lines += ["", f"Smallest NLL on validation data at the end: {least}."]
    return "\n".join(lines) + "\n"


def _as_json(interval: Interval) -> list[float | None]:
    return [number_or_none(value) for value in interval]


def _shown(interval: Sequence[float | None], form: str, num_seeds: int) -> str:
    """Format an interval for display; for one seed, only the estimate."""
    estimate, low, high = (
        "not reached" if value is None else form.format(value) for value in interval
    )
    single = num_seeds == 1 or estimate == low == high
    return estimate if single else f"{estimate} ({low} to {high})"


def plot(histories: Histories) -> Figure:
    """Draw the mean test accuracy of each method, with a band of one standard error."""
    figure, axes = learning_curve_axes()
    for method, runs in histories.items():
        acquired, errors = error_curves(runs, sorted(runs))
        mean = 100 * (1 - errors.mean(0))
        spread = errors.std(0, ddof=min(1, len(errors) - 1))  # 0 for one seed
        band = 100 * spread / np.sqrt(len(errors))
        (line,) = axes.plot(acquired, mean, markersize=4, label=method)
        axes.fill_between(acquired, mean - band, mean + band, color=line.get_color(), alpha=0.2)
    num_seeds = max(len(runs) for runs in histories.values())
    axes.set_title(
        "one seed" if num_seeds == 1 else f"mean of {num_seeds} seeds, band: one standard error",
        fontsize=10,
    )
    figure.set_figwidth(9.5)
    figure.legend(loc="outside right upper")  # inside, it would cover the curves of many methods
    return figure


def _file_name(method: str) -> str:
    return re.sub(r"[^\w.-]+", "-", method).lstrip(".").rstrip("-.") or "method"
