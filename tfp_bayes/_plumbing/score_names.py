"""Names of the scores that sort predictions of classes by how uncertain they are.

They are attributes of a `Prediction`, except "confidence", which stands for the largest probability
of its mean. The list imports nothing, so a command can show it before TensorFlow starts.
"""

UNCERTAINTY_SCORES = ("predictive_entropy", "mutual_information", "confidence")
