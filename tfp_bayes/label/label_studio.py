"""Export of proposals to Label Studio and import of its answers, as JSON files.

The labeling interface of the project in Label Studio must be

    <View><Image name="image" value="$image"/><Choices name="label" toName="image">
      <Choice value="..."/> ... </Choices></View>

with one choice for each class name.
"""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_json
from tfp_bayes._plumbing.images import png
from tfp_bayes.active import ActiveLearner
from tfp_bayes.label.classes import check_class_names, predicted_class

_TAG = "label"  # the name of the `Choices` tag


class Imported(NamedTuple):
    """Counts of the images in an imported file.

    Attributes:
        taken: Number of images that had no label and received one.
        known: Number of images whose label was known already.
        changed: Number of images whose label was replaced by a different one.
        left_out: Number of images without an answer.
    """

    taken: int
    known: int
    changed: int
    left_out: int


def export_tasks(learner: ActiveLearner, path: str | Path, class_names: Sequence[str]) -> int:
    """Write the images to label next, with predicted classes, as a file for Label Studio's import.

    Args:
        learner: Learner whose proposal is exported. If none is open, it makes one first.
        path: JSON file to write.
        class_names: K names of the classes, or the names of 0 and 1 for one sigmoid.

    Returns:
        Number of tasks, which is the number of proposed images without a label.

    Raises:
        ValueError: If the model does not predict one class for each image, or the names do not
            match its classes. No file is written then.
    """
    names = check_class_names(learner.targets, class_names)
    pending = learner.propose()
    known = dict(zip(learner.pool.proposed.tolist(), learner.pool.proposed_probabilities))
    tasks = []
    for i in pending.tolist():
        guess, probability = predicted_class(learner.targets, known[i])
        image = base64.b64encode(png(learner.rows(np.array([i]))[0])).decode()
        choice = {
            "from_name": _TAG,
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [names[guess]]},
        }
        data = {"image": f"data:image/png;base64,{image}", "index": i, **_run_of(learner)}
        prediction: dict[str, Any] = {
            "model_version": f"round {len(learner.history) - 1}",
            "result": [choice],
        }
        if probability is not None:
            prediction["score"] = probability
        tasks.append({"data": data, "predictions": [prediction]})
    write_json(Path(path), tasks)
    return len(tasks)


def import_labels(learner: ActiveLearner, path: str | Path, class_names: Sequence[str]) -> Imported:
    """Import the labels that Label Studio exported in the format "JSON".

    If an image has several annotations, in one task or in several, the most frequent answer counts;
    canceled annotations are ignored. Images without an answer remain to be labeled. It is safe to
    import a file again, with the same or with more answers; see `ActiveLearner.merge`. An image
    whose annotations have not changed since an earlier import keeps its label, and a new answer
    replaces the previous one.

    Args:
        learner: Learner whose tasks were exported.
        path: JSON file to read.
        class_names: K names of the classes, or the names of 0 and 1 for one sigmoid.

    Returns:
        The counts of imported labels.

    Raises:
        ValueError: If the names do not match the model's classes, the file is not such an export or
            belongs to another run, a choice is not a class, an annotation has several choices, or
            two answers are equally frequent.
            Nothing is stored then.
        OSError: If another process labels the same run.
    """
    names = check_class_names(learner.targets, class_names)
    learner.lock()
    annotations = _annotations(learner, Path(path))
    indices, labels, sources = [], [], []
    for index, found in annotations.items():
        choices = [choice for choice, _ in found]
        if not choices:
            continue
        unknown = set(choices) - set(names)
        counts = Counter(choices).most_common(2)
        if unknown or (len(counts) == 2 and counts[0][1] == counts[1][1]):
            raise ValueError(
                f"Expected a single most frequent answer among {names} for image "
                f"{index}. Received: {choices}. Hint: correct it in Label Studio and export again."
            )
        indices.append(index)
        labels.append(names.index(counts[0][0]))
        sources.append(f"label studio {digest(sorted(found))}")
    if not indices:
        return Imported(0, 0, 0, len(annotations))
    merged = learner.merge(np.array(indices), np.array(labels), "label studio", sources)
    return Imported(*merged, len(annotations) - len(indices))


def _annotations(learner: ActiveLearner, path: Path) -> dict[int, list[tuple[str, str]]]:
    """Return the choices for each image, each with an identifier of its annotation."""
    found: dict[int, list[tuple[str, str]]] = {}
    runs = set()
    try:
        tasks = json.loads(path.read_text())
        if not isinstance(tasks, list):
            raise TypeError("not a list")
        for task in tasks:
            index = task["data"]["index"]
            if not isinstance(index, int):
                raise TypeError(f"index {index!r}")
            found.setdefault(index, []).extend(_choices(task))
            runs.add(task["data"].get("run"))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"Expected an export of tasks from export_tasks, in Label Studio's format JSON, in "
            f"{path}. Received: {type(error).__name__}: {error}. "
            "Hint: choose 'JSON' when you export."
        ) from None
    own = _run_of(learner).get("run")
    if own is not None and runs - {own, None}:
        raise ValueError(
            f"Expected tasks of this run, {own}, in {path}. Received: tasks of "
            f"{sorted(map(str, runs - {own}))}. Hint: import them into the run that exported them."
        )
    return found


def _run_of(learner: ActiveLearner) -> dict[str, str]:
    """Return the entry of a task's data that identifies its run."""
    identity = learner.storage.identity
    return {"run": digest(identity)} if identity else {}


def _choices(task: dict) -> list[tuple[str, str]]:
    """Return the class in each annotation of a task, with an identifier.

    Other tags of the labeling interface are ignored, even if they have the same choices.
    """
    found = []
    for annotation in task["annotations"]:
        for result in annotation["result"] if not annotation.get("was_cancelled") else ():
            if result["type"] == "choices" and result.get("from_name", _TAG) == _TAG:
                choices = result["value"]["choices"]
                if len(choices) != 1:
                    raise ValueError(f"{choices} as the class of image {task['data']['index']}")
                mark = f"{annotation.get('id')} {annotation.get('updated_at')}"
                found.append((choices[0], mark))
    return found
