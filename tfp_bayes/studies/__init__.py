"""Runs of active learning in folders, several runs compared, and their reports."""

from tfp_bayes.studies import curves, report, runs

__all__ = ["curves", "report", "runs"]
