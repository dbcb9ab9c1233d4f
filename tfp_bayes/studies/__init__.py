"""Runs of active learning in folders, several runs compared, and their reports."""

from typing import TYPE_CHECKING

from tfp_bayes._plumbing.lazy import lazy_contents

if TYPE_CHECKING:
    from tfp_bayes.studies import configuration, curves, report, runs

__all__ = ["configuration", "curves", "report", "runs"]

__getattr__, __dir__ = lazy_contents(__name__, __all__, {})
