"""Options of sampled predictions, shared by the commands that predict with a saved model."""


def add_sampling(add, at_least, default: int | None = None) -> None:
    """Add the options for the number of posterior samples and for their seed.

    Args:
        add: Method `add_argument` of the parser.
        at_least: Function of an integer that returns a parser of integers of at least that value.
        default: Number of samples; None is the model's own.
    """
    shown = ": the model's" if default is None else f" {default}"
    add(
        "--num-samples",
        type=at_least(1),
        default=default,
        metavar="S",
        help=f"posterior samples (default{shown})",
    )
    add("--seed", type=at_least(0), default=0, metavar="N", help="seed of samples (default 0)")
