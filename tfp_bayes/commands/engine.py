"""The options for parallel work, which several commands have."""

from typing import Any

from tfp_bayes._plumbing.workers import ENGINES


def add_engine(add, at_least, engine: str, workers: int | None) -> None:
    """Add the options for the engine, its workers and their GPUs.

    Args:
        add: Method `add_argument` of the parser.
        at_least: Function of an integer that returns a parser of integers of at least that value.
        engine: Default engine.
        workers: Default number of workers; None is one per core.
    """
    shown = "one per core" if workers is None else workers
    add(
        "--engine",
        choices=ENGINES,
        default=engine,
        help=f"where to compute (default {engine}); ray: RAY_ADDRESS, or this machine",
    )
    add(
        "--workers",
        type=at_least(1),
        default=workers,
        metavar="N",
        help=f"processes or actors (default {shown})",
    )
    add("--gpus-per-worker", type=float, default=0, metavar="G", help="GPUs per actor, with ray")


def engine_arguments(options: Any) -> dict[str, Any]:
    """Return the values of these options, by the names of arguments."""
    return {name: getattr(options, name) for name in ("engine", "workers", "gpus_per_worker")}
