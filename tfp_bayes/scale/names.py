"""Names that the command line lists, available without importing TensorFlow."""

from tfp_bayes.active.built_in import ACQUISITIONS

# Scores that depend on one row only. "epig" depends on other rows too; "random" on none.
SCORES = tuple(name for name in sorted(ACQUISITIONS) if name not in ("epig", "random"))
