"""Test the example of an HTTP server: a separate process with many concurrent clients."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import mlp, vectors

import tfp_bayes

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
FOLDER = Path(__file__).parent.parent.parent / "examples" / "serving"
sys.path.insert(0, str(FOLDER))
import http_server  # noqa: E402

X = vectors(60)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process that runs the example and accepts connections."""

    def __init__(self, folder, *arguments):
        self.address = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, FOLDER / "http_server.py", folder, "--port", str(port)]
        self.process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        while self.process.poll() is None:
            try:
                self.get("/health")
                break
            except urllib.error.URLError:
                time.sleep(0.05)

    def get(self, path, body=None):
        """Returns status, JSON and headers of a response."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(self.address + path, data, timeout=60) as answer:
                return answer.status, json.load(answer), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), error.headers

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=60)[1]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "mlp"
    inputs = keras.Input((5,), name="x")
    tfp_bayes.BayesianModel(inputs, mlp()(inputs)).export(folder)
    return folder


@pytest.fixture(scope="module")
def server(exported):
    server = Server(exported, "--max-rows=48", "--max-waiting=200", "--max-samples=5000")
    yield server
    server.process.kill()
    server.process.communicate()


def questions():
    """Returns requests of 1 to 6 rows, with two seeds and two numbers of samples."""
    rng = np.random.default_rng(1)
    return [
        {
            "inputs": X[(start := rng.integers(50)) : start + rng.integers(1, 7)].tolist(),
            "num_samples": int(rng.choice([20, 30])),
            "seed": int(rng.integers(2)),
        }
        for _ in range(48)
    ]


def test_concurrent_requests_get_the_answers_they_get_alone(server, exported):
    served = tf.saved_model.load(exported)
    asked = questions()
    before = server.get("/health")[1]
    with ThreadPoolExecutor(16) as clients:
        first = list(clients.map(lambda body: server.get("/predict", body), asked))
        second = list(clients.map(lambda body: server.get("/predict", body), asked[::-1]))[::-1]
    state = server.get("/health")[1]
    count = {name: state[name] - before[name] for name in ("requests", "batches")}
    assert count["requests"] == 2 * len(asked)
    assert count["batches"] < 2 * len(asked)  # some were answered together
    for body, (status, answer, _), (_, again, _) in zip(asked, first, second):
        assert status == 200
        assert answer == again
        x = tf.constant(body["inputs"], tf.float32)
        alone = served.predict_uncertainty(x, body["num_samples"], [body["seed"], 0])
        for name, values in alone.items():
            np.testing.assert_array_equal(np.float32(answer[name]), values)
    assert state["inputs"] == {"x": {"dtype": "float32", "shape": [None, 5]}}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "Expected JSON. Received: b'{'"),
        (b"[" * 100_000, "Expected JSON"),
        ([1, 2], "Expected a JSON object with `inputs`. Received: list"),
        ({"instances": [[0] * 5]}, "JSON object with `inputs`"),
        ({"inputs": [[0] * 5], "samples": 3}, "Received: ['samples']"),
        ({"inputs": [[0] * 4]}, "float32 of shape ['N', 5] for input 'x'. Received: shape [1, 4]"),
        ({"inputs": [0] * 5}, "Received: shape [5]"),
        ({"inputs": [[0] * 5, [0] * 4]}, "lists of different lengths"),
        ({"inputs": []}, "Received: shape [0]"),
        ({"inputs": [[0, 0, 0, 0, float("nan")]]}, "finite float32"),
        ({"inputs": [[0, 0, 0, 0, 1e39]]}, "NaN or infinity"),
        ({"inputs": [["1"] * 5]}, "not numbers"),
        ({"inputs": [[None] * 5]}, "not numbers"),
        ({"inputs": [[True] * 5]}, "not numbers"),
        ({"inputs": {"y": [[0] * 5]}}, "`inputs` named ['x']"),
        ({"inputs": [[0] * 5] * 49}, "1 to 48 rows, equally many in each input. Received: [49]"),
        ({"inputs": [[0] * 5], "num_samples": 0}, "integer from 1 to 5000 for `num_samples`"),
        ({"inputs": [[0] * 5], "num_samples": 10**9}, "Received: 1000000000"),
        ({"inputs": [[0] * 5], "num_samples": True}, "Received: True"),
        ({"inputs": [[0] * 5], "seed": 1.5}, "for `seed`. Received: 1.5"),
    ],
)
def test_what_is_refused(body, text, server):
    status, answer, _ = server.get("/predict", body)
    assert status == 400
    assert text in answer["error"]


def test_other_addresses_and_sizes(server):
    assert server.get("/nothing")[:2] == (404, {"error": "Not Found"})
    assert server.get("/predict")[:2] == (405, {"error": "Method Not Allowed"})
    status, answer, _ = server.get("/predict", b" " * (2**24 + 1))
    assert status == 413
    assert "16777216 bytes" in answer["error"]


def test_too_many_requests_and_a_stop(server):
    """A full queue refuses requests; after SIGTERM, waiting requests are still answered."""
    body = {"inputs": X[:40].tolist(), "num_samples": 5000}

    def ask(seed):  # different seeds cannot share a batch, so the queue of 200 rows fills
        try:
            return server.get("/predict", {**body, "seed": seed})
        except OSError:  # not yet accepted when the server stopped
            return None, None, None

    with ThreadPoolExecutor(12) as clients:
        asked = [clients.submit(ask, seed) for seed in range(12)]
        while not any(future.done() and future.result()[0] == 503 for future in asked):
            assert not all(future.done() for future in asked)
            time.sleep(0.01)
        log = server.stop()
        answers = [future.result() for future in asked]
    statuses = [status for status, _, _ in answers]
    assert statuses.count(200) >= 5  # the queue had this many when it refused one
    refused = answers[statuses.index(503)]
    assert refused[2]["Retry-After"] == "1"
    assert "Hint: retry" in refused[1]["error"]
    assert "Finished server process" in log
    with pytest.raises(urllib.error.URLError):
        server.get("/health")


# Tests without a server process.


class Fake:
    """A model of two inputs that fails on codes above 4, like a lookup."""

    specs = {
        "code": tf.TensorSpec([None, 2], tf.uint8),
        "word": tf.TensorSpec([None], tf.string),
    }

    def __call__(self, inputs, num_samples, seed):
        if (inputs["code"] > 4).any():
            raise ValueError("no such code")
        return {"sum": inputs["code"].sum(1), "nothing": np.full(len(inputs["code"]), np.nan)}


def test_a_row_that_fails_costs_its_neighbors_nothing():
    async def ask():
        batcher = http_server.Batcher(Fake(), 10, 10)
        codes = [[[1, 2]], [[9, 9]], [[3, 4], [0, 1]]]
        bodies = [{"inputs": {"code": code, "word": ["a"] * len(code)}} for code in codes]
        asked = [http_server.read_question(body, batcher, 10) for body in bodies]
        answers = [asyncio.ensure_future(batcher.ask(question)) for question in asked]
        await asyncio.sleep(0)
        asked[0].answer.cancel()  # a client that has disconnected
        worker = asyncio.create_task(batcher.work())
        results = await asyncio.gather(*answers, return_exceptions=True)
        worker.cancel()
        return results

    for_nobody, failed, answered = asyncio.run(ask())
    assert isinstance(for_nobody, asyncio.CancelledError)
    assert str(failed) == "no such code"
    assert answered["sum"].tolist() == [7, 1]
    assert http_server._as_lists(answered["nothing"]) == [None, None]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"code": [[1, 256]], "word": ["a"]}, "numbers that this type cannot represent"),
        ({"code": [[1, 2.5]], "word": ["a"]}, "numbers that this type cannot represent"),
        ({"code": [[1, -1]], "word": ["a"]}, "numbers that this type cannot represent"),
        ({"code": [[1, 2]], "word": [3]}, "string of shape"),
        ({"code": [[1, 2]], "word": ["a", "b"]}, "1 to 10 rows, equally many in each input"),
        ([[1, 2]], "`inputs` named ['code', 'word']"),
    ],
)
def test_types_of_several_inputs(inputs, text):
    async def read():
        http_server.read_question({"inputs": inputs}, http_server.Batcher(Fake(), 10, 10), 10)

    with pytest.raises(http_server.HTTPException) as refused:
        asyncio.run(read())
    assert text in refused.value.detail


def test_a_warm_up_has_a_row_of_each_type():
    class Recorder(http_server.Model):
        def __init__(self):
            self.specs = Fake.specs

        def __call__(self, inputs, num_samples, seed):
            self.tensors = {k: tf.constant(x, self.specs[k].dtype) for k, x in inputs.items()}

    recorder = Recorder()
    recorder.warm_up()
    shapes = {name: tensor.shape.as_list() for name, tensor in recorder.tensors.items()}
    assert shapes == {"code": [1, 2], "word": [1]}
