"""Labels from people: a local web page, and files for Label Studio."""

from tfp_bayes.label.label_studio import Imported, export_tasks, import_labels
from tfp_bayes.label.session import Session

__all__ = ["Imported", "Session", "export_tasks", "import_labels"]
