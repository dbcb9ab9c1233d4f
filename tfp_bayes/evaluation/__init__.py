"""One table of every metric, with intervals, of one model or of several on the same examples."""

from tfp_bayes.evaluation.evaluator import evaluate
from tfp_bayes.evaluation.report import Evaluation
from tfp_bayes.evaluation.table import Estimate, Metric

__all__ = ["Estimate", "Evaluation", "Metric", "evaluate"]
