"""Arguments of learners, written flat."""

from tfp_bayes.active.built_in import MOVED


def arranged(**flat):
    """Puts arguments of queries, training and evaluation where they belong, others as they are."""
    arguments = {}
    for name, value in flat.items():
        where, inside = MOVED.get(name, (name, None))
        if where in ("query", "refit", "evaluation"):
            arguments.setdefault(where, {})[inside] = value
        else:
            arguments[name] = value
    return arguments
