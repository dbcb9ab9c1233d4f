"""Labeling by people: a local web page, and files for Label Studio."""

from tfp_bayes.label.label_studio import Imported, export_tasks, import_labels
from tfp_bayes.label.session import Session
from tfp_bayes.label.start import StartSession

__all__ = ["Imported", "Session", "StartSession", "export_tasks", "import_labels"]
