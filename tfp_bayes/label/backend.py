"""Label Studio's ML backend: a guess for each task, and a score to order tasks by.

Label Studio asks by HTTP (`ml/api_connector.py` of its sources): GET /health, POST /setup with the
labeling interface, POST /predict with tasks, POST /webhook and /train when people have answered.
"""

import hmac
import logging
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from tfp_bayes._plumbing.score_names import UNCERTAINTY_SCORES
from tfp_bayes.label.task_images import LabelStudio, TaskImages
from tfp_bayes.prediction import Prediction

try:
    import flask
except ImportError as error:
    raise ImportError(
        "Expected Flask, which answers Label Studio. "
        f'Received: {error}. Hint: pip install "tfp_bayes[label]".'
    ) from None

_logger = logging.getLogger(__name__)


class ServedModel(NamedTuple):
    """A classifier of images.

    Attributes:
        predict: From images (N, H, W, C) uint8 to their `Prediction`.
        class_names: K names.
        shape: (H, W, C).
        version: Changes with the model.
    """

    predict: Callable[[np.ndarray], Prediction]
    class_names: list[str]
    shape: tuple[int, int, int]
    version: str


class Control(NamedTuple):
    """The part of a labeling interface that asks for the class of an image."""

    name: str
    image_name: str
    key: str  # of the address in a task's data


class LabelStudioBackend:
    """Answers the requests of Label Studio's ML backend protocol.

    The score of a prediction is low where the model doubts, because Label Studio's uncertainty
    sampling shows the task of the lowest score first. It is 1 - doubt / log K for predictive
    entropy and mutual information, both between 0 and log K nats, and the confidence itself.

    Args:
        load: Returns the model to answer with; called for every request, so it may be a newer one.
        images: Reads the images of tasks.
        score: "predictive_entropy", "mutual_information" or "confidence".
        studio: The instance whose key is known; without one, what `/setup` says.
    """

    def __init__(
        self,
        load: Callable[[], ServedModel],
        images: TaskImages | None = None,
        score: str = "predictive_entropy",
        studio: LabelStudio | None = None,
    ):
        if score not in UNCERTAINTY_SCORES:
            raise ValueError(
                f"Expected one of {UNCERTAINTY_SCORES} for `score`. Received: score={score!r}. "
                "Hint: mutual_information is what labels would settle."
            )
        self.images = images or TaskImages()
        self.score = score
        self.studio = studio or LabelStudio()
        self._load = load
        self._studios: dict[str, LabelStudio] = {}  # by project
        self._lock = threading.Lock()  # one prediction at a time

    def setup(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Checks that a project's labeling interface has the model's classes.

        Args:
            body: `schema`, the interface's XML; `project`, `hostname` and `access_token`.

        Raises:
            ValueError: If it has not.
        """
        model = self._load()
        control_of(body.get("schema") or "", model.class_names)
        studio = LabelStudio(body.get("hostname") or "", body.get("access_token") or "")
        self._studios[str(body.get("project"))] = studio
        return {"model_version": self._version(model)}

    def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a prediction for each task, in order.

        A task whose image cannot be read gets an empty result and the score 1, so that it comes
        last; the log names it.

        Args:
            body: `tasks`, each with `data`; `label_config`, XML; `project`; `params`.

        Raises:
            ValueError: If no image can be read, or the interface lacks a class.
        """
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise ValueError("Expected a list of tasks. Received: none. Hint: {'tasks': [...]}.")
        with self._lock:
            model = self._load()
            control = control_of(body.get("label_config") or "", model.class_names)
            images = self._read(tasks, control, model.shape, self._studio_of(body))
            known = {i: image for i, image in enumerate(images) if image is not None}
            results: list[dict[str, Any]] = [{"result": [], "score": 1.0} for _ in tasks]
            if known:
                prediction = model.predict(np.stack(list(known.values())))
                scores = self._scores(prediction)
                for i, mean, score in zip(known, prediction.mean, scores):
                    results[i] = _answer(mean, score, control, model.class_names)
        version = self._version(model)
        return {"results": [{**r, "model_version": version} for r in results]}

    def versions(self) -> dict[str, list[str]]:
        """Returns the one version that there is."""
        return {"versions": [self._version(self._load())]}

    def _version(self, model: ServedModel) -> str:
        return f"{model.version}-{self.score}"

    def _studio_of(self, body: Mapping[str, Any]) -> LabelStudio:
        if self.studio.url:
            return self.studio
        named = (body.get("params") or {}).get("hostname") or ""
        return self._studios.get(str(body.get("project")), LabelStudio(named))

    def _read(self, tasks, control: Control, shape, studio: LabelStudio) -> list[np.ndarray | None]:
        failures = []

        def read(task: Mapping[str, Any]) -> np.ndarray | None:
            try:
                address = (task.get("data") or {}).get(control.key)
                return self.images.read(address or "", shape, studio)
            except (ValueError, OSError) as error:
                failures.append(str(error))
                _logger.warning("Task %s: %s", task.get("id"), error)
                return None

        with ThreadPoolExecutor(4) as threads:
            images = list(threads.map(read, tasks))
        if failures and len(failures) == len(tasks):
            raise ValueError(failures[0])  # not one bad image: Label Studio shows the reason
        return images

    def _scores(self, prediction: Prediction) -> np.ndarray:
        if self.score == "confidence":
            return prediction.mean.max(-1)
        doubt = getattr(prediction, self.score) / math.log(prediction.mean.shape[-1])
        return np.clip(1 - doubt, 0, 1)


def control_of(label_config: str, class_names: list[str]) -> Control:
    """Finds the question for the class of an image in a labeling interface.

    Args:
        label_config: XML.
        class_names: What the choices must include.

    Raises:
        ValueError: If there is no such question.
    """
    try:
        root = ElementTree.fromstring(label_config)
    except ElementTree.ParseError as error:
        raise _no_control(class_names, str(error)) from None
    keys = {
        tag.get("name"): (tag.get("value") or "").removeprefix("$") for tag in root.iter("Image")
    }
    found = []
    for tag in root.iter("Choices"):
        values = [choice.get("alias") or choice.get("value") for choice in tag.iter("Choice")]
        found.append(values)
        if tag.get("toName") in keys and set(class_names) <= set(values):
            image = tag.get("toName") or ""
            return Control(tag.get("name") or "", image, keys[image])
    raise _no_control(class_names, f"choices {found}")


def _no_control(class_names: list[str], received: str) -> ValueError:
    return ValueError(
        f"Expected a labeling interface with Choices {class_names} of an Image. "
        f"Received: {received}. Hint: add a Choice for each class of the model, as it is spelled."
    )


def _answer(mean: np.ndarray, score: float, control: Control, class_names: list[str]) -> dict:
    if not (np.isfinite(mean).all() and np.isfinite(score)):
        return {"result": [], "score": 1.0}  # a broken model knows nothing, and JSON no NaN
    guess = int(mean.argmax())
    choice = {
        "from_name": control.name,
        "to_name": control.image_name,
        "type": "choices",
        "value": {"choices": [class_names[guess]]},
        "score": float(mean[guess]),
    }
    return {"result": [choice], "score": float(score)}


def make_backend(
    backend: LabelStudioBackend, user: str | None = None, password: str | None = None
) -> flask.Flask:
    """Returns the web application that Label Studio connects to as a model.

    Args:
        backend: Answers.
        user: With `password`, what Label Studio's basic authentication must send.
        password: See `user`.
    """
    app = flask.Flask("tfp_bayes_backend")

    @app.before_request
    def check_user():
        if user is None or password is None:
            return None
        given = flask.request.authorization
        said = f"{given.username}:{given.password}" if given else ""
        if hmac.compare_digest(said.encode(), f"{user}:{password}".encode()):
            return None
        return {"error": "Unauthorized"}, 401, {"WWW-Authenticate": "Basic"}

    @app.get("/")
    @app.get("/health")
    def health():
        return {"status": "UP", "model_class": type(backend).__name__}

    @app.get("/versions")
    def versions():
        return backend.versions()

    @app.post("/setup")
    def setup():
        return backend.setup(_body())

    @app.post("/predict")
    def predict():
        return backend.predict(_body())

    @app.post("/train")
    @app.post("/webhook")
    def webhook():
        # The file of the model is what is served: whoever trains it writes it anew.
        return {"status": "ok", "result": "not trained here; a new model file is loaded"}

    @app.errorhandler(ValueError)
    def refused(error):
        _logger.warning("%s", error)
        return {"error": str(error)}, 400

    return app


def _body() -> dict[str, Any]:
    body = flask.request.get_json(force=True)
    if not isinstance(body, dict):
        raise ValueError("Expected a JSON object. Received: another value. Hint: {'tasks': []}.")
    return body
