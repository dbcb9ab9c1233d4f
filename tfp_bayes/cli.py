"""The command line: parses, calls the library, prints."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tfp_bayes import __version__
from tfp_bayes._plumbing.quiet import start_tensorflow

# TensorFlow takes seconds to import; this module does so only once it knows there is work.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        start_tensorflow()
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
    # Options of the run have no default here: what is not given comes from the run that is
    # resumed, or from RunConfig.
    add = active.add_argument
    add("--dataset", help="mnist (default), or any image-classification set of TFDS")
    add("--data-dir", help="where TFDS keeps prepared data sets")
    add("--manual-dir", help="where files downloaded by hand are")
    add("--pool-size", type=int, metavar="N", help="the first N training images (default all)")
    add(
        "--acquisition",
        help="bald (default), epig, variation_ratios, max_entropy, mean_std, margin, "
        "least_confident, predictive_variance, random",
    )
    add(
        "--selector",
        type=_named,
        help="top_k (default), batch_bald, diverse, power, softmax, softrank, k_center, badge, "
        'greedy_variance; or with arguments, \'{"name": "diverse", "coefficient": 0.3}\'',
    )
    add("--architecture", help="gal (default) or kirsch, see BayesianCNN")
    add(
        "--inference",
        help="mc_dropout (default), flipout, local_reparameterization, reparameterization, "
        "closed_form, closed_form_mean_field or deterministic",
    )
    add(
        "--prior-scale",
        type=float,
        metavar="S",
        help="scale of the weights' prior (default 1; inf is a flat one)",
    )
    add("--query-size", type=int, metavar="Q", help="images acquired a round (default 10)")
    add("--rounds", type=int, default=10, metavar="R", help="rounds in all (default 10)")
    add("--initial", help="balanced (default), random, kmeans or kmeans_unlabelled")
    add("--initial-size", type=int, metavar="N", help="images labelled at the start (default 20)")
    add("--noise-rate", type=float, metavar="P", help="share of wrong labels (default 0)")
    add(
        "--label-filter",
        type=_named,
        help="which labels are believed: all (default), dynamic_threshold, static_threshold, "
        "bayes_threshold, budget_threshold, oracle, random; or with arguments, as --selector",
    )
    add("--rejected", help="what becomes of other labels: skip (default), quarantine, relabel")
    add(
        "--stop",
        action="append",
        metavar="NAME=VALUE",
        help="end early, may be repeated: labels=200, accuracy=0.95 or nll=0.2 (on validation), "
        "plateau=5 (rounds), uncertainty=0.05 (nats, of the pool)",
    )
    add(
        "--candidates",
        type=lambda text: None if text == "all" else int(text),
        default=argparse.SUPPRESS,
        metavar="N",
        help="random pool images scored a round, or 'all' (default 2000)",
    )
    add("--num-samples", type=int, metavar="S", help="posterior samples (default 100)")
    add("--evaluation-samples", type=int, metavar="S", help="for the test set (default as many)")
    add("--reinit", help="fresh (default), warm or shrink_perturb")
    add("--steps", type=int, metavar="N", help="optimizer steps a round (default 200)")
    add("--seed", type=int, metavar="N", help="decides everything random (default 0)")
    add("--out", type=Path, metavar="DIR", help="folder of the run (default runs/...)")
    add("--tensorboard", action="store_true", help="write OUT/tensorboard for TensorBoard")
    add("--resume", action="store_true", help="continue the run in --out")
    _add_experiment(commands)
    _add_label(commands)
    return parser


def _named(text: str) -> str | dict:
    """Reads a name, or a name with arguments as JSON."""
    try:
        return json.loads(text) if text.startswith("{") else text
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"Expected a name or JSON. Received: {text} ({error}). "
            'Hint: \'{"name": "diverse", "coefficient": 0.3}\'.'
        ) from None


def _add_label(commands) -> None:
    """Adds the commands for people who label."""
    described = {
        "label": ("label a run's images in the browser", _label),
        "export-tasks": ("write a run's images to label for Label Studio", _export_tasks),
        "import-labels": ("read a run's labels from Label Studio's JSON export", _import_labels),
    }
    for name, (text, command) in described.items():
        parser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. Start a run with `tfp-bayes active-learning "
            "--rounds 0 --out DIR`.",
        )
        parser.set_defaults(command=command)
        parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run")
        parser.add_argument("--data-dir", help="where TFDS keeps prepared data sets")
        parser.add_argument("--manual-dir", help="where files downloaded by hand are")
        if name == "label":
            parser.add_argument("--port", type=int, default=8765, help="(default 8765)")
        else:
            parser.add_argument("file", type=Path, help="JSON file")


def _open_run(options: argparse.Namespace):
    from tfp_bayes.studies import runs

    return runs.open_run(options.run, options.data_dir, options.manual_dir)


def _label(options: argparse.Namespace) -> int:
    import logging

    from tfp_bayes.label import Session
    from tfp_bayes.label.server import HOST, make_app
    from tfp_bayes.studies.report import write_report

    learner, data = _open_run(options)
    session = Session(
        learner,
        data.class_names,
        lambda learner: write_report(learner, options.run, data.class_names),
    )
    app = make_app(session)
    session.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    address = f"http://{HOST}:{options.port}/?token={app.config['TOKEN']}"
    print(f"Label at {address}\nEach label is saved at once; stop with Ctrl-C.", flush=True)
    app.run(HOST, options.port, threaded=True)
    return 0


def _export_tasks(options: argparse.Namespace) -> int:
    from tfp_bayes.label import export_tasks

    learner, data = _open_run(options)
    count = export_tasks(learner, options.file, data.class_names)
    print(f"Wrote {options.file}: {count} tasks")
    return 0


def _import_labels(options: argparse.Namespace) -> int:
    from tfp_bayes.label import import_labels

    learner, data = _open_run(options)
    taken, left = import_labels(learner, options.file, data.class_names)
    print(f"Took {taken} labels, left out {left} images without an answer")
    return 0


def _add_experiment(commands) -> None:
    experiment = commands.add_parser(
        "experiment",
        help="several methods of active learning on the same seeds",
        description="Compares methods of active learning on paired seeds. Started again, it "
        "continues.",
    )
    experiment.set_defaults(command=_experiment)
    add = experiment.add_argument
    add("config", type=Path, help="TOML file, see examples/study")
    add("--out", type=Path, metavar="DIR", help="folder (default runs/NAME-OF-THE-FILE)")
    add("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    add("--seeds", type=int, metavar="N", help="instead of the file's")
    add("--rounds", type=int, metavar="R", help="instead of the file's")


def _experiment(options: argparse.Namespace) -> int:
    import dataclasses
    import functools

    from rich.progress import Progress

    from tfp_bayes.studies.comparison import run_experiment
    from tfp_bayes.studies.experiments import load_experiment, run_one

    config = load_experiment(options.config)
    given = {name: getattr(options, name) for name in ("seeds", "rounds")}
    config = dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    out = options.out or Path("runs", options.config.stem)
    with Progress(transient=True) as progress:
        total = len(config.methods) * config.seeds
        progress.print(f"{len(config.methods)} methods, {config.seeds} seeds, writing to {out}")
        task = progress.add_task("runs", total=total)

        def on_run(method: str, seed: int) -> None:
            progress.advance(task)
            progress.print(f"{method}, seed {seed}: complete", highlight=False)

        run_experiment(
            functools.partial(run_one, config),
            list(config.methods),
            range(config.seeds),
            out,
            workers=options.workers,
            on_run=on_run,
        )
    print((out / "summary.md").read_text(), end="")
    print(f"Wrote {out}: results.csv, summary.json, summary.md, learning_curves.png")
    return 0


def _active_learning(options: argparse.Namespace) -> int:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from tfp_bayes import datasets
    from tfp_bayes.studies import runs

    fields = runs.RunConfig.__dataclass_fields__
    given = {k: v for k, v in vars(options).items() if k in fields and v is not None}
    if hasattr(options, "candidates"):
        given["candidates"] = options.candidates
    if options.prior_scale == float("inf"):
        given["prior_scale"] = None
    config = runs.RunConfig(**given)
    out = options.out or Path(
        "runs",
        f"{config.dataset}-{config.acquisition}-{_name(config.selector)}-{config.architecture}"
        f"-{config.inference}-seed{config.seed}",
    )
    if options.resume:
        config = runs.RunConfig(**{**vars(runs.load_config(out)), **given})
    elif (out / "config.json").exists():
        raise ValueError(
            f"Expected a folder without a run for --out. Received: --out={out}. "
            "Hint: add --resume to continue that run, or choose another folder."
        )
    stop = _stop(options.stop)
    data = datasets.load(config.dataset, options.data_dir, options.manual_dir)

    next_stage = {
        "start": "training",
        "propose": "labelling",
        "tell": "training",
        "fit": "evaluating",
        "evaluate": "scoring the pool",
    }
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, transient=True) as progress:
        progress.print(f"{config.acquisition} on {config.dataset}, writing to {out}")
        task = progress.add_task("loading")

        def on_stage(stage: str) -> None:
            if stage in next_stage:
                progress.update(task, description=next_stage[stage])

        def on_round(row: runs.Round) -> None:
            seconds = row.fit_seconds + row.score_seconds + row.evaluate_seconds
            progress.print(
                f"round {row.round:3d}/{options.rounds}  acquired {row.num_acquired:4d}  "
                f"test accuracy {row.test_accuracy:7.2%}  test NLL {row.test_nll:.3f}  "
                f"{seconds:5.1f} s",
                highlight=False,
            )

        learner = runs.run_active_learning(
            config,
            options.rounds,
            out,
            data=data,
            stop=stop,
            tensorboard=options.tensorboard,
            on_round=on_round,
            on_stage=on_stage,
        )
    result = runs.summary(config, learner.history)
    for error in (10, 5):
        count = result[f"images_to_{error}_percent_error"]
        text = "not reached" if count is None else f"{count:.0f} acquired images"
        print(f"{error} % test error: {text}")
    shown = ("history.csv", "acquired.csv", "learning_curve.png", "acquired.png", "model.keras")
    print(f"Wrote {out}: {', '.join(name for name in shown if (out / name).exists())}")
    return 0


def _name(configured: str | dict) -> str:
    return configured["name"] if isinstance(configured, dict) else configured


def _stop(criteria: list[str] | None):
    """Returns the criterion that stops a run as soon as one of those named would."""
    from tfp_bayes.active import stopping

    if not criteria:
        return None
    known = {
        "labels": lambda value: stopping.Budget(int(value)),
        "accuracy": lambda value: stopping.Target(accuracy=value),
        "nll": lambda value: stopping.Target(nll=value),
        "plateau": lambda value: stopping.Plateau(int(value)),
        "uncertainty": stopping.Certain,
    }
    made = []
    for text in criteria:
        name, _, value = text.partition("=")
        try:
            made.append(known[name](float(value)))
        except (KeyError, ValueError):
            raise ValueError(
                f"Expected NAME=VALUE with a name out of {sorted(known)} for --stop. "
                f"Received: --stop={text}. Hint: --stop accuracy=0.95."
            ) from None
    return stopping.any_of(*made)
