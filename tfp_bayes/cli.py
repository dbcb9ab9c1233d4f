"""The command line `tfp-bayes`: parses arguments, calls the library and prints results."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfp_bayes import __version__
from tfp_bayes._plumbing.dataset_names import as_path, check_dataset_name
from tfp_bayes._plumbing.files import check_folder
from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes._plumbing.options import NONE, add_options
from tfp_bayes._plumbing.quiet import start_tensorflow
from tfp_bayes._plumbing.workers import check_engine
from tfp_bayes.active import stopping
from tfp_bayes.active.built_in import ACQUISITIONS
from tfp_bayes.commands.engine import add_engine, engine_arguments
from tfp_bayes.commands.evaluate import add_evaluate
from tfp_bayes.commands.label_pool import (
    add_pool_options,
    has_no_labels,
    label_pool,
    labelled_folder,
    serve,
)
from tfp_bayes.commands.label_studio import add_label_studio
from tfp_bayes.commands.predict import add_predict
from tfp_bayes.commands.score import add_score
from tfp_bayes.studies.configuration import (
    CHECKPOINT,
    FIRST_RUN,
    ExperimentConfig,
    RunConfig,
    complete,
    load_config,
    load_experiment,
)

if TYPE_CHECKING:
    from rich.progress import Progress

# TensorFlow takes seconds to import, so each command checks its arguments first.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        resume = " and --resume" if hasattr(options, "resume") else ""
        print(f"Stopped. Continue with the same command{resume}.", file=sys.stderr)
        return 130
    except (ValueError, ImportError, OSError) as error:
        print(f"tfp-bayes: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfp-bayes", description="Bayesian deep learning for Keras 3."
    )
    parser.add_argument("--version", action="version", version=f"tfp-bayes {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    active = commands.add_parser(
        "active-learning",
        help="a Bayesian CNN chooses which images to label",
        description="A Bayesian CNN chooses which images to label, round by round.",
    )
    active.set_defaults(command=_active_learning)
    # Options that are not given come from the resumed run, or from `complete`.
    add_options(active, RunConfig, FIRST_RUN)
    add = active.add_argument
    add("--data-dir", help="folder of prepared TFDS data sets")
    add("--manual-dir", help="folder of manually downloaded files")
    add(
        "--rounds", type=_at_least(0), default=15, metavar="R", help="number of rounds (default 15)"
    )
    add(
        "--stop",
        action="append",
        metavar="NAME=VALUE",
        help="stop early; may be repeated: labels=200, accuracy=0.95 or nll=0.2 (on validation "
        "data), plateau=5 (rounds), uncertainty=0.05 (nats, mean over the pool)",
    )
    add(
        "--compare",
        choices=(*ACQUISITIONS, NONE),
        default="random",
        metavar="NAME",
        help="acquisition of a second run with as many labels, for comparison, or none (default "
        "random)",
    )
    add("--out", type=Path, metavar="DIR", help="folder of the run (default runs/...)")
    add("--tensorboard", action="store_true", help="write OUT/tensorboard for TensorBoard")
    add("--resume", action="store_true", help="continue the run in --out")
    add_pool_options(active, _at_least)
    _add_experiment(commands)
    _add_label(commands)
    add_label_studio(commands, _at_least)
    add_predict(commands, _at_least)
    add_evaluate(commands, _at_least)
    add_score(commands, _at_least)
    return parser


def _at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a function that parses an integer in a range."""

    def read(text: str) -> int:
        expected = f"an integer of at least {least}" + ("" if most is None else f", at most {most}")
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"Expected {expected}. Received: {text}.")
        return value

    return read


def _add_label(commands) -> None:
    """Add the commands for labeling."""
    described = {
        "label": ("label the images of a run in the browser", _label),
        "export-tasks": ("write the images to label as tasks for Label Studio", _export_tasks),
        "import-labels": ("read the labels of a run from Label Studio's JSON", _import_labels),
    }
    for name, (text, command) in described.items():
        parser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. Start a run with `tfp-bayes active-learning "
            "--rounds 0 --out DIR`.",
        )
        parser.set_defaults(command=command)
        parser.add_argument(
            "--run", type=Path, required=True, metavar="DIR", help="folder of a run"
        )
        parser.add_argument("--data-dir", help="folder of prepared TFDS data sets")
        parser.add_argument("--manual-dir", help="folder of manually downloaded files")
        if name == "label":
            port = {"type": _at_least(1, 65535), "default": 8765, "metavar": "N"}
            parser.add_argument("--port", **port, help="port of the page (default 8765)")
        else:
            parser.add_argument("file", type=Path, help="JSON file")


def _open_run(options: argparse.Namespace, write: bool = True):
    load_config(options.run)  # raises an error now if there is no run
    lock = lock_of(options.run / CHECKPOINT)
    if write:
        lock.acquire()  # raises an error now if another process is writing there
    start_tensorflow()
    from tfp_bayes.studies import runs

    return runs.open_run(options.run, options.data_dir, options.manual_dir, write)


def _label(options: argparse.Namespace) -> int:
    learner, config, data = _open_run(options)
    from tfp_bayes.label import Session
    from tfp_bayes.studies.runs import write_outcome

    session = Session(
        learner,
        data.class_names,
        lambda learner: write_outcome(learner, config, data, options.run),
    )
    session.start()
    return serve(session, options.port)


def _export_tasks(options: argparse.Namespace) -> int:
    learner, config, data = _open_run(options, write=False)
    from tfp_bayes.label import export_tasks
    from tfp_bayes.studies import runs

    rounds = len(learner.history)
    count = export_tasks(learner, options.file, data.class_names)
    if len(learner.history) > rounds:  # the learner has trained on complete answers first
        runs.write_outcome(learner, config, data, options.run)
    print(f"Wrote {options.file}: {count} tasks")
    return 0


def _import_labels(options: argparse.Namespace) -> int:
    learner, config, data = _open_run(options)
    from tfp_bayes.label import import_labels
    from tfp_bayes.studies import runs

    done = import_labels(learner, options.file, data.class_names)
    print(
        f"Imported {done.taken} labels; {done.known} were known, {done.changed} replaced another; "
        f"{done.left_out} images have no answer"
    )
    if done.taken and not len(learner.pool.pending):
        row = learner.train()
        runs.write_outcome(learner, config, data, options.run)
        print(f"round {row.round}: trained on these labels, test accuracy {row.test_accuracy:.2%}")
    return 0


def _add_experiment(commands) -> None:
    experiment = commands.add_parser(
        "experiment",
        help="compare methods of active learning on the same seeds",
        description="Compares methods of active learning on paired seeds. The same command "
        "continues an interrupted experiment.",
    )
    experiment.set_defaults(command=_experiment)
    add = experiment.add_argument
    add("config", type=Path, help="TOML file, see examples/study")
    add("--out", type=Path, metavar="DIR", help="output folder (default runs/NAME-OF-THE-FILE)")
    add_engine(add, _at_least, "processes", 1)
    add("--seeds", type=_at_least(1), metavar="N", help="number of seeds (default from the file)")
    add("--rounds", type=_at_least(0), metavar="R", help="number of rounds (default from the file)")


def _experiment(options: argparse.Namespace) -> int:
    config = load_experiment(options.config)
    given = {name: getattr(options, name) for name in ("seeds", "rounds")}
    config = dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    for method in config.methods.values():
        check_dataset_name(method.get("dataset", RunConfig.dataset))
    out = options.out or Path("runs", options.config.stem)
    check_folder(out)
    check_engine(**engine_arguments(options))
    start_tensorflow()
    return _run_experiment(config, out, options)


def _run_experiment(config: ExperimentConfig, out: Path, options: argparse.Namespace) -> int:
    import functools

    from rich.progress import Progress

    from tfp_bayes.studies.comparison import run_experiment
    from tfp_bayes.studies.experiments import run_one

    with Progress(transient=True) as progress:
        total = len(config.methods) * config.seeds
        _print(progress, f"{len(config.methods)} methods, {config.seeds} seeds, writing to {out}")
        task = progress.add_task("runs", total=total)

        def on_run(method: str, seed: int) -> None:
            progress.advance(task)
            _print(progress, f"{method}, seed {seed}: complete")

        run_experiment(
            functools.partial(run_one, config),
            list(config.methods),
            range(config.seeds),
            out,
            **engine_arguments(options),
            on_run=on_run,
        )
    print((out / "summary.md").read_text(), end="")
    print(f"Wrote {out}: results.csv, summary.json, summary.md, learning_curves.png")
    return 0


def _print(progress: "Progress", line: str) -> None:
    """Print a line above the progress display, without markup and line breaks.

    Names and paths may contain brackets, which the display would interpret as markup. Without a
    terminal, the display would wrap lines at a default width.
    """
    progress.print(line, markup=False, highlight=False, soft_wrap=True)


def _active_learning(options: argparse.Namespace) -> int:
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    given = {name: value for name, value in vars(options).items() if name in fields}
    if options.data is not None:
        if has_no_labels(options):
            return label_pool(options, given)
        given["dataset"] = labelled_folder(options)
    out = options.out or _usual_folder(complete(given))
    config = dataclasses.replace(load_config(out), **given) if options.resume else complete(given)
    if not options.resume and (out / "config.json").exists():
        raise ValueError(
            f"Expected a folder without a run for --out. Received: --out={out}. "
            "Hint: add --resume to continue that run, or choose another folder."
        )
    stop = stopping.get(options.stop)
    check_dataset_name(config.dataset, options.data_dir)
    check_folder(out)
    start_tensorflow()
    return _run(config, stop, out, options)


def _usual_folder(config: RunConfig) -> Path:
    selector = config.selector
    path = as_path(config.dataset)
    names = (
        config.dataset if path is None else path.stem,
        config.acquisition,
        selector["name"] if isinstance(selector, dict) else selector,
        config.architecture,
        config.inference,
    )
    return Path("runs", "-".join([*names, f"seed{config.seed}"]))


def _run(
    config: RunConfig, stop: stopping.Criterion | None, out: Path, options: argparse.Namespace
) -> int:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from tfp_bayes import datasets
    from tfp_bayes._plumbing.files import write_png
    from tfp_bayes.studies import runs
    from tfp_bayes.studies.baseline import baseline, describe, method_of
    from tfp_bayes.studies.report import plot_learning_curves

    # Before the first run, so that an impossible comparison is an error now.
    other = None if options.compare == NONE else baseline(config, options.compare)
    data = datasets.load(config.dataset, options.data_dir, options.manual_dir)
    results = {}
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, transient=True) as progress:

        def run(config: RunConfig, rounds: int, folder: Path, **kwargs) -> None:
            method = method_of(config)
            _print(progress, f"{method} on {config.dataset}, writing to {folder}")
            task = progress.add_task(f"{method}, preparing")
            learner = runs.run_active_learning(
                config,
                rounds,
                folder,
                data=data,
                on_round=lambda row: _print(progress, row.describe(rounds)),
                on_stage=lambda words: progress.update(task, description=f"{method}, {words}"),
                **kwargs,
            )
            progress.remove_task(task)
            results[method] = list(learner.history)

        run(config, options.rounds, out, stop=stop, tensorboard=options.tensorboard)
        ((_, history),) = results.items()
        if other is not None and len(history) > 1:
            run(other, len(history) - 1, out / options.compare, pictures=False)
            write_png(out / "learning_curve.png", plot_learning_curves(results))
    for method, history in results.items():
        print(describe(method, history))
    shown = ("history.csv", "acquired.csv", "learning_curve.png", "acquired.png", "model.keras")
    print(f"Wrote {out}: {', '.join(name for name in shown if (out / name).exists())}")
    return 0
