"""Serve an exported SavedModel over HTTP, with concurrent requests in batches.

    pip install starlette tensorflow uvicorn
    python http_server.py saved_models/mnist_mc_dropout --port 8000
    curl localhost:8000/health
    curl localhost:8000/predict -d '{"inputs": [...], "num_samples": 100, "seed": 0}'

`inputs` are rows, as nested lists. For a model with several inputs, they are an object that maps
names to such lists. The response has the predictive mean, entropies, mutual information and
variances of each row. It depends only on inputs, num_samples and seed: the same request gets the
same numbers, bit for bit on a CPU, whatever other requests arrive at that time. The server needs
neither Keras nor tfp_bayes.
"""

import argparse
import asyncio
import contextlib
import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_SETTINGS = ("num_samples", "seed")


class Model:
    """The signature `predict_uncertainty` of a SavedModel, with NumPy arrays in and out."""

    def __init__(self, folder: str):
        self._loaded = tf.saved_model.load(folder)  # signatures need the loaded object
        self._call = self._loaded.signatures["predict_uncertainty"]
        specs = self._call.structured_input_signature[1]
        self.specs = {name: spec for name, spec in specs.items() if name not in _SETTINGS}

    def __call__(self, inputs: dict, num_samples: int, seed: int) -> dict[str, np.ndarray]:
        """Returns all measures by name, one entry per row."""
        tensors = {name: tf.constant(x, self.specs[name].dtype) for name, x in inputs.items()}
        settings = {"num_samples": tf.constant(num_samples), "seed": tf.constant([seed, 0])}
        return {name: x.numpy() for name, x in self._call(**tensors, **settings).items()}

    def warm_up(self) -> None:
        """Computes one row, so that the first request does not wait for TensorFlow's setup."""
        rows = {}
        for name, spec in self.specs.items():
            size = [1, *(n or 1 for n in spec.shape[1:])]
            empty = b"" if spec.dtype == tf.string else 0
            rows[name] = np.full(size, empty, spec.dtype.as_numpy_dtype)
        self(rows, 1, 0)


@dataclass
class Question:
    """The rows of one request, and the future of its answer."""

    inputs: dict[str, np.ndarray]
    num_samples: int
    seed: int
    answer: asyncio.Future

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.inputs.values())))

    @property
    def group(self) -> tuple:
        """Key that is equal for questions that can be answered in one call."""
        shapes = tuple(x.shape[1:] for x in self.inputs.values())
        return self.num_samples, self.seed, shapes


class Batcher:
    """A bounded queue in front of a model that computes one batch at a time.

    It does not wait for a batch to fill: requests that arrive while the model computes form the
    next batch.

    Args:
        model: Model that computes the answers.
        max_rows: Largest number of rows in a batch or a request.
        max_waiting: Largest number of rows in the queue; further requests are refused.
    """

    def __init__(self, model: Model, max_rows: int, max_waiting: int):
        self.model = model
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        self.answered = {"requests": 0, "batches": 0}
        self._questions: deque[Question] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1)

    @property
    def waiting(self) -> int:
        """Number of rows in the queue."""
        return sum(question.num_rows for question in self._questions)

    async def ask(self, question: Question) -> dict[str, np.ndarray]:
        """Queues a question and returns its answer."""
        if self.waiting + question.num_rows > self.max_waiting:
            raise HTTPException(503, "Too many requests are waiting. Hint: retry in a second.")
        self._questions.append(question)
        self._arrived.set()
        return await question.answer

    async def work(self) -> None:
        """Answers questions until the task is cancelled."""
        while True:
            await self._arrived.wait()
            batch = self._take()
            try:
                await self._answer(batch)
            except Exception as error:
                # A row on which the model fails must not affect other requests in the batch.
                for question in batch:
                    if len(batch) == 1:
                        _settle(question, error)
                        continue
                    try:
                        await self._answer([question])
                    except Exception as own_error:
                        _settle(question, own_error)

    def _take(self) -> list[Question]:
        """Removes the oldest question and those that fit into its batch from the queue."""
        batch, rows, others = [], 0, deque[Question]()
        group = self._questions[0].group
        for question in self._questions:
            if question.group == group and rows + question.num_rows <= self.max_rows:
                batch.append(question)
                rows += question.num_rows
            else:
                others.append(question)
        self._questions = others
        if not others:
            self._arrived.clear()
        return batch

    async def _answer(self, batch: list[Question]) -> None:
        first = batch[0]
        inputs = {k: np.concatenate([q.inputs[k] for q in batch]) for k in first.inputs}
        loop = asyncio.get_running_loop()
        measures = await loop.run_in_executor(
            self._thread, self.model, inputs, first.num_samples, first.seed
        )
        self.answered["batches"] += 1
        start = 0
        for question in batch:
            rows = slice(start, start + question.num_rows)
            _settle(question, {name: values[rows] for name, values in measures.items()})
            start = rows.stop
            self.answered["requests"] += 1


def _settle(question: Question, result: dict | Exception) -> None:
    if question.answer.done():  # the client has disconnected
        return
    if isinstance(result, Exception):
        question.answer.set_exception(result)
    else:
        question.answer.set_result(result)


# Validation of requests.


def read_question(body: Any, batcher: Batcher, max_samples: int) -> Question:
    """Returns the question in a request's JSON; raises HTTPException 400 if it is invalid."""
    if not isinstance(body, dict) or "inputs" not in body:
        raise _refuse("a JSON object with `inputs`", type(body).__name__)
    if unknown := set(body) - {"inputs", *_SETTINGS}:
        raise _refuse("inputs, num_samples and seed", sorted(unknown))
    num_samples = _integer(
        body.get("num_samples", min(100, max_samples)), "num_samples", 1, max_samples
    )
    seed = _integer(body.get("seed", 0), "seed", 0, 2**31 - 1)
    specs, inputs = batcher.model.specs, body["inputs"]
    if len(specs) == 1 and not isinstance(inputs, dict):
        inputs = dict.fromkeys(specs, inputs)
    if not isinstance(inputs, dict) or set(inputs) != set(specs):
        raise _refuse(f"`inputs` named {sorted(specs)}", inputs)
    arrays = {name: _array(inputs[name], spec, name) for name, spec in specs.items()}
    rows = {len(array) for array in arrays.values()}
    if len(rows) > 1 or not 1 <= min(rows) <= batcher.max_rows:
        raise _refuse(f"1 to {batcher.max_rows} rows, equally many in each input", sorted(rows))
    return Question(arrays, num_samples, seed, asyncio.get_running_loop().create_future())


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _refuse(f"an integer from {least} to {most} for `{name}`", value)
    return value


def _array(value: Any, spec: tf.TensorSpec, name: str) -> np.ndarray:
    """Returns rows in the type of an input, or refuses a conversion that loses information."""
    wanted = f"{spec.dtype.name} of shape {['N', *spec.shape[1:]]} for input {name!r}"
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise _refuse(wanted, "lists of different lengths") from None
    if array.ndim != spec.shape.rank or not spec.shape[1:].is_compatible_with(array.shape[1:]):
        raise _refuse(wanted, f"shape {list(array.shape)}")
    if spec.dtype == tf.string:
        if array.dtype.kind != "U":
            raise _refuse(wanted, array.dtype.name)
        return array.astype(object)
    if array.dtype.kind not in ("b" if spec.dtype == tf.bool else "iuf"):
        raise _refuse(wanted, f"{array.dtype.name}, not numbers")
    with np.errstate(all="ignore"):
        cast = array.astype(spec.dtype.as_numpy_dtype)
    if not np.isfinite(cast).all():
        raise _refuse(f"finite {wanted}", "NaN or infinity")
    if cast.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise _refuse(wanted, "numbers that this type cannot represent")
    return cast


def _refuse(expected: str, received: Any) -> HTTPException:
    text = str(received)
    return HTTPException(400, f"Expected {expected}. Received: {text[:100]}.")


# The application.


def make_app(
    folder: str,
    max_rows: int = 256,
    max_waiting: int = 4096,
    max_samples: int = 1000,
    max_bytes: int = 2**24,
) -> Starlette:
    """Returns the ASGI application of a SavedModel.

    Args:
        folder: Folder of the SavedModel.
        max_rows: Largest number of rows in a batch or a request.
        max_waiting: Largest number of waiting rows; further requests get status 503.
        max_samples: Largest num_samples of a request.
        max_bytes: Largest size of a request in bytes.
    """
    batcher = Batcher(Model(folder), max_rows, max_waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        await asyncio.to_thread(batcher.model.warm_up)  # before any connection is accepted
        app.state.worker = asyncio.create_task(batcher.work())
        yield
        # At this point uvicorn accepts no connections and has answered all requests.
        app.state.worker.cancel()

    async def health(request: Request) -> JSONResponse:
        alive = not request.app.state.worker.done()
        inputs = {
            name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
            for name, spec in batcher.model.specs.items()
        }
        state = {"waiting_rows": batcher.waiting, **batcher.answered, "inputs": inputs}
        return JSONResponse({"status": "ok" if alive else "dead", **state}, 200 if alive else 503)

    async def predict(request: Request) -> JSONResponse:
        question = read_question(await _json(request, max_bytes), batcher, max_samples)
        measures = await batcher.ask(question)
        answer: dict[str, Any] = {name: _as_lists(values) for name, values in measures.items()}
        return JSONResponse({**answer, "num_samples": question.num_samples, "seed": question.seed})

    return Starlette(
        routes=[Route("/health", health), Route("/predict", predict, methods=["POST"])],
        lifespan=lifespan,
        exception_handlers={HTTPException: _error, Exception: _error},
    )


async def _json(request: Request, max_bytes: int) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"Expected at most {max_bytes} bytes. Hint: send fewer rows.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _refuse("JSON", bytes(body[:50])) from None


def _as_lists(values: np.ndarray) -> list:
    """Returns nested lists, with null for NaN and infinity, which JSON cannot represent."""
    finite = np.isfinite(values)
    return values.tolist() if finite.all() else np.where(finite, values, None).tolist()


async def _error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        headers = {"Retry-After": "1"} if error.status_code == 503 else None
        return JSONResponse({"error": error.detail}, error.status_code, headers)
    return JSONResponse({"error": "The model failed on these inputs."}, 500)  # see the log


def main() -> None:
    """Serves until SIGTERM or Ctrl-C, and answers all received requests before it exits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_model", help="folder that model.export wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-rows", type=int, default=256, help="in a batch or a request")
    parser.add_argument("--max-waiting", type=int, default=4096, help="rows in the queue")
    parser.add_argument("--max-samples", type=int, default=1000, help="per request")
    options = parser.parse_args()
    limits = options.max_rows, options.max_waiting, options.max_samples
    app = make_app(options.saved_model, *limits)
    uvicorn.run(app, host=options.host, port=options.port, timeout_graceful_shutdown=30)


if __name__ == "__main__":
    main()
