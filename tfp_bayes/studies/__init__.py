"""Studies of active learning: runs in folders, comparisons of several runs, and reports."""

from typing import TYPE_CHECKING

from tfp_bayes._plumbing.lazy import lazy_contents

if TYPE_CHECKING:
    from tfp_bayes.studies import configuration, curves, report, runs

__all__ = ["configuration", "curves", "report", "runs"]

__getattr__, __dir__ = lazy_contents(__name__, __all__, {})
