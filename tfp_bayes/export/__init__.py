"""Export of models with their predictive uncertainty."""

from tfp_bayes.export.baked import export_baked
from tfp_bayes.export.saved_model import PREDICT_SEED, export_saved_model

__all__ = ["PREDICT_SEED", "export_baked", "export_saved_model"]
