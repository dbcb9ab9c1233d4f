"""Flat keyword arguments for learners."""

from tfp_bayes.active.built_in import MOVED


def arranged(**flat):
    """Move arguments of queries, training and evaluation into their nested dictionaries."""
    arguments = {}
    for name, value in flat.items():
        where, inside = MOVED.get(name, (name, None))
        if where in ("query", "refit", "evaluation"):
            arguments.setdefault(where, {})[inside] = value
        else:
            arguments[name] = value
    return arguments
