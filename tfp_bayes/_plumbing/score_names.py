"""Names of the scores that sort predictions of classes by uncertainty.

They are attributes of a `Prediction`, except "confidence", which is the largest probability of the
predictive mean. This module imports nothing, so a command can list the names before TensorFlow
starts.
"""

UNCERTAINTY_SCORES = ("predictive_entropy", "mutual_information", "confidence")
