"""An ML backend for Label Studio: a predicted class for each task, and a score that orders tasks.

Label Studio sends HTTP requests (see `ml/api_connector.py` in its sources): GET /health, POST
/setup with the labeling interface, POST /predict with tasks, and POST /webhook and /train when
people have answered.
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
    """An image classifier that answers requests.

    Attributes:
        predict: Function from images (N, H, W, C) uint8 to their `Prediction`.
        class_names: K names of the classes, in the order of the model's outputs.
        shape: Shape (H, W, C) of an image.
        version: String that changes when the model changes.
    """

    predict: Callable[[np.ndarray], Prediction]
    class_names: list[str]
    shape: tuple[int, int, int]
    version: str


class Control(NamedTuple):
    """The tag of a labeling interface that asks for the class of an image.

    Attributes:
        name: Name of the `Choices` tag.
        image_name: Name of the `Image` tag.
        key: Key of the image's address in the data of a task.
    """

    name: str
    image_name: str
    key: str


class LabelStudioBackend:
    """Handler of the requests of Label Studio's ML backend protocol.

    The score of a prediction is low where the model is uncertain, because Label Studio's
    uncertainty sampling shows the task with the lowest score first. With "predictive_entropy" and
    "mutual_information", which are between 0 and log K nats, the score is 1 - value / log K. With
    "confidence", it is the confidence itself.

    Args:
        load: Function that returns the model to use. It is called for every request, so the model
            can be replaced while the backend runs.
        images: Reader of the images of tasks. None uses `TaskImages()`.
        score: "predictive_entropy", "mutual_information" or "confidence".
        studio: Label Studio instance that holds the images. None uses the address and key that the
            project's `/setup` request sends.

    Raises:
        ValueError: If `score` is unknown.
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
                "Hint: mutual_information is the part of the uncertainty that labels can remove."
            )
        self.images = images or TaskImages()
        self.score = score
        self.studio = studio or LabelStudio()
        self._load = load
        self._studios: dict[str, LabelStudio] = {}  # by project
        self._lock = threading.Lock()  # one prediction at a time

    def setup(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Check that a project's labeling interface offers the model's classes.

        Args:
            body: Request with the interface's XML in `schema`, and `project`, `hostname` and
                `access_token`.

        Returns:
            The response, which contains the version of the model.

        Raises:
            ValueError: If the interface lacks a class.
        """
        model = self._load()
        control_of(body.get("schema") or "", model.class_names)
        studio = LabelStudio(body.get("hostname") or "", body.get("access_token") or "")
        self._studios[str(body.get("project"))] = studio
        return {"model_version": self._version(model)}

    def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a prediction for each task, in order.

        A task whose image cannot be read gets an empty result and the score 1, so it comes last.
        The log names it.

        Args:
            body: Request with `tasks`, each with `data`, the interface's XML in `label_config`, and
                `project` and `params`.

        Returns:
            The response, with one result for each task.

        Raises:
            ValueError: If no image can be read, or the interface lacks a class.
        """
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise ValueError(
                f"Expected a list of JSON objects for `tasks`. Received: tasks={tasks!r:.200}. "
                "Hint: for example {'tasks': [{'data': ...}]}."
            )
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
        """Return a list of the only version of the model."""
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
            raise ValueError(failures[0])  # a common cause is likely; Label Studio shows the error
        return images

    def _scores(self, prediction: Prediction) -> np.ndarray:
        if self.score == "confidence":
            return prediction.mean.max(-1)
        doubt = getattr(prediction, self.score) / math.log(prediction.mean.shape[-1])
        return np.clip(1 - doubt, 0, 1)


def control_of(label_config: str, class_names: list[str]) -> Control:
    """Find the tag that asks for the class of an image in a labeling interface.

    Args:
        label_config: XML of the interface.
        class_names: Names that the choices must include.

    Raises:
        ValueError: If there is no such tag.
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
        f"Expected a labeling interface with Choices {class_names} for an Image. "
        f"Received: {received}. Hint: add a Choice with the exact name of each class of the model."
    )


def _answer(mean: np.ndarray, score: float, control: Control, class_names: list[str]) -> dict:
    if not (np.isfinite(mean).all() and np.isfinite(score)):
        return {"result": [], "score": 1.0}  # JSON cannot represent NaN, from a broken model
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
    """Return the web application to which Label Studio connects as a model.

    Args:
        backend: Handler of the requests.
        user: User name that Label Studio must send by basic authentication, with `password`. None
            accepts every request.
        password: Password of this user.
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
        # The backend serves a model file, which another process trains and rewrites.
        return {"status": "ok", "result": "not trained here; a new model file is loaded"}

    @app.errorhandler(ValueError)
    def refused(error):
        _logger.warning("%s", error)
        return {"error": str(error)}, 400

    return app


def _body() -> dict[str, Any]:
    body = flask.request.get_json(force=True)
    if not isinstance(body, dict):
        raise ValueError(
            "Expected a JSON object for the body of the request. Received: "
            f"{type(body).__name__}. Hint: for example {{'tasks': []}}."
        )
    return body
