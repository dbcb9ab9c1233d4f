"""Proposals to Label Studio and its answers back, as JSON files.

The labelling interface of the project in Label Studio is

    <View><Image name="image" value="$image"/><Choices name="label" toName="image">
      <Choice value="..."/> ... </Choices></View>

with one choice for each class name.
"""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfp_bayes._plumbing.files import write_json
from tfp_bayes.active import ActiveLearner
from tfp_bayes.active.images import png


def export_tasks(learner: ActiveLearner, path: str | Path, class_names: Sequence[str]) -> int:
    """Writes the images to label next, with the model's guesses, for Label Studio's import.

    Args:
        learner: Proposes, if it has not.
        path: JSON file to write.
        class_names: K names.

    Returns:
        Number of tasks: images that have no label yet.
    """
    pending = learner.propose()
    known = dict(zip(learner.proposed.tolist(), learner.proposed_probabilities))
    tasks = []
    for i in pending.tolist():
        guess = int(known[i].argmax())
        image = base64.b64encode(png(learner.rows([i])[0])).decode()
        choice = {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [class_names[guess]]},
        }
        tasks.append(
            {
                "data": {"image": f"data:image/png;base64,{image}", "index": i},
                "predictions": [
                    {
                        "model_version": f"round {len(learner.history) - 1}",
                        "score": float(known[i][guess]),
                        "result": [choice],
                    }
                ],
            }
        )
    write_json(Path(path), tasks)
    return len(tasks)


def import_labels(
    learner: ActiveLearner, path: str | Path, class_names: Sequence[str]
) -> tuple[int, int]:
    """Tells the learner what Label Studio exported ("JSON").

    Of several annotations of an image the most frequent answer counts; cancelled ones do not.
    Images without an answer stay to be labelled.

    Args:
        learner: The one whose tasks these were.
        path: JSON file to read.
        class_names: K names.

    Returns:
        Numbers of labels taken and of images left out.

    Raises:
        ValueError: If the file is no such export, a choice is no class, or two answers are as
            frequent; nothing is told then.
    """
    try:
        tasks = json.loads(Path(path).read_text())
        if not isinstance(tasks, list):
            raise TypeError("not a list")
        answers = {int(task["data"]["index"]): _choices(task) for task in tasks}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected Label Studio's export in JSON, of tasks from export_tasks, in {path}. "
            f"Received: {type(error).__name__}: {error}. Hint: choose 'JSON' when exporting."
        ) from None
    indices, labels = [], []
    for index, choices in answers.items():
        if not choices:
            continue
        unknown = set(choices) - set(class_names)
        counts = Counter(choices).most_common(2)
        if unknown or (len(counts) == 2 and counts[0][1] == counts[1][1]):
            raise ValueError(
                f"Expected one most frequent answer out of {list(class_names)} for image {index}. "
                f"Received: {choices}. Hint: correct it in Label Studio and export again."
            )
        indices.append(index)
        labels.append(list(class_names).index(counts[0][0]))
    if indices:
        learner.tell(np.array(indices), np.array(labels))
    return len(indices), len(answers) - len(indices)


def _choices(task: dict) -> list[str]:
    """Returns the answers in all annotations of a task."""
    return [
        result["value"]["choices"][0]
        for annotation in task["annotations"]
        if not annotation.get("was_cancelled")
        for result in annotation["result"]
        if result["type"] == "choices"
    ]
