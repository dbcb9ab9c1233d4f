"""Names that the command line lists, readable at once."""

from tfp_bayes.active.built_in import ACQUISITIONS

ENGINES = ("local", "processes", "ray")
# Of one row alone: "epig" asks about others too, and "random" about none.
SCORES = tuple(name for name in sorted(ACQUISITIONS) if name not in ("epig", "random"))
