"""The command line: parses, calls the library, prints."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfp_bayes import __version__

# TensorFlow takes seconds to import; this module does so only once it knows there is work.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        print("Stopped. Continue with the same command and --resume.", file=sys.stderr)
        return 130
    except (ValueError, ConnectionError, OSError) as error:
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
    add(
        "--acquisition",
        help="bald (default), epig, variation_ratios, max_entropy, mean_std, margin, "
        "least_confident, predictive_variance, random",
    )
    add(
        "--selector",
        help="top_k (default), batch_bald, diverse, power, softmax, softrank, k_center, badge, "
        "greedy_variance",
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
    add("--initial-size", type=int, metavar="N", help="images labelled at the start (default 20)")
    add(
        "--candidates",
        type=lambda text: None if text == "all" else int(text),
        default=argparse.SUPPRESS,
        metavar="N",
        help="random pool images scored a round, or 'all' (default 2000)",
    )
    add("--num-samples", type=int, metavar="S", help="posterior samples (default 100)")
    add("--reinit", help="fresh (default), warm or shrink_perturb")
    add("--steps", type=int, metavar="N", help="optimizer steps a round (default 200)")
    add("--seed", type=int, metavar="N", help="decides everything random (default 0)")
    add("--out", type=Path, metavar="DIR", help="folder of the run (default runs/...)")
    add("--resume", action="store_true", help="continue the run in --out")
    return parser


def _active_learning(options: argparse.Namespace) -> int:
    with _silence():
        import tensorflow as tf

        from tfp_bayes import datasets, runs

        tf.config.list_physical_devices()  # complains about a missing GPU when it first looks
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    fields = runs.RunConfig.__dataclass_fields__
    given = {k: v for k, v in vars(options).items() if k in fields and v is not None}
    if hasattr(options, "candidates"):
        given["candidates"] = options.candidates
    if options.prior_scale == float("inf"):
        given["prior_scale"] = None
    config = runs.RunConfig(**given)
    out = options.out or Path(
        "runs",
        f"{config.dataset}-{config.acquisition}-{config.selector}-{config.architecture}"
        f"-{config.inference}-seed{config.seed}",
    )
    if options.resume:
        config = runs.RunConfig(**{**vars(runs.load_config(out)), **given})
    elif (out / "config.json").exists():
        raise ValueError(
            f"Expected a folder without a run for --out. Received: --out={out}. "
            "Hint: add --resume to continue that run, or choose another folder."
        )
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
            config, options.rounds, out, data=data, on_round=on_round, on_stage=on_stage
        )
    result = runs.summary(config, learner.history)
    for error in (10, 5):
        count = result[f"images_to_{error}_percent_error"]
        text = "not reached" if count is None else f"{count:.0f} acquired images"
        print(f"{error} % test error: {text}")
    print(f"Wrote {out}: history.csv, acquired.csv, learning_curve.png, acquired.png, model.keras")
    return 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drops what TensorFlow's C++ prints as it starts; Python's errors still come through."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
