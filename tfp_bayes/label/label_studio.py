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
from typing import NamedTuple

import numpy as np

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_json
from tfp_bayes._plumbing.images import png
from tfp_bayes.active import ActiveLearner


class Imported(NamedTuple):
    """Outcome for the images in a file.

    Attributes:
        taken: Labels of images that had none.
        known: Labels that changed nothing.
        changed: Labels that replaced another one.
        left_out: Images without an answer.
    """

    taken: int
    known: int
    changed: int
    left_out: int


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
    known = dict(zip(learner.pool.proposed.tolist(), learner.pool.proposed_probabilities))
    tasks = []
    for i in pending.tolist():
        guess = int(known[i].argmax())
        image = base64.b64encode(png(learner.rows(np.array([i]))[0])).decode()
        choice = {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [class_names[guess]]},
        }
        data = {"image": f"data:image/png;base64,{image}", "index": i, **_run_of(learner)}
        tasks.append(
            {
                "data": data,
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


def import_labels(learner: ActiveLearner, path: str | Path, class_names: Sequence[str]) -> Imported:
    """Tells the learner what Label Studio exported ("JSON").

    Of several annotations of an image, in one task or in several, the most frequent answer
    counts; cancelled ones do not. Images without an answer stay to be labelled. A file can be
    imported again, with more answers or with the same, see `ActiveLearner.merge`: an image whose
    annotations are those of an earlier import is left as it is, another answer replaces the one
    before.

    Args:
        learner: The one whose tasks these were.
        path: JSON file to read.
        class_names: K names.

    Raises:
        ValueError: If the file is no such export or of another run, a choice is no class, or two
            answers are as frequent; nothing is told then.
        OSError: If another process labels the same run.
    """
    learner.lock()
    annotations = _annotations(learner, Path(path))
    indices, labels, sources = [], [], []
    for index, found in annotations.items():
        choices = [choice for choice, _ in found]
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
        sources.append(f"label studio {digest(sorted(found))}")
    if not indices:
        return Imported(0, 0, 0, len(annotations))
    merged = learner.merge(np.array(indices), np.array(labels), "label studio", sources)
    return Imported(*merged, len(annotations) - len(indices))


def _annotations(learner: ActiveLearner, path: Path) -> dict[int, list[tuple[str, str]]]:
    """Returns each image's choices, each with what tells its annotation from another."""
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
            f"Expected Label Studio's export in JSON, of tasks from export_tasks, in {path}. "
            f"Received: {type(error).__name__}: {error}. Hint: choose 'JSON' when exporting."
        ) from None
    own = _run_of(learner).get("run")
    if own is not None and runs - {own, None}:
        raise ValueError(
            f"Expected tasks of this run, {own}, in {path}. Received: tasks of "
            f"{sorted(map(str, runs - {own}))}. Hint: import them into the run that exported them."
        )
    return found


def _run_of(learner: ActiveLearner) -> dict[str, str]:
    """Returns what tells the tasks of a run in files from those of another."""
    identity = learner.storage.identity
    return {"run": digest(identity)} if identity else {}


def _choices(task: dict) -> list[tuple[str, str]]:
    """Returns the answers in all annotations of a task."""
    return [
        (result["value"]["choices"][0], f"{annotation.get('id')} {annotation.get('updated_at')}")
        for annotation in task["annotations"]
        if not annotation.get("was_cancelled")
        for result in annotation["result"]
        if result["type"] == "choices"
    ]
