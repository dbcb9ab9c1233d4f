"""Evaluation of one or several models on the same examples by every metric, with intervals."""

from tfp_bayes.evaluation.evaluator import evaluate
from tfp_bayes.evaluation.report import Evaluation
from tfp_bayes.evaluation.table import Estimate, Metric

__all__ = ["Estimate", "Evaluation", "Metric", "evaluate"]
