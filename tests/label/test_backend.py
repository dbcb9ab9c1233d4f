"""Label Studio's ML backend, with requests as in its sources (`ml/api_connector.py`)."""

import base64
import http.server
import io
import json
import math
import re
import threading

import flask
import keras
import numpy as np
import PIL.Image
import pytest
from networks import images

import tfp_bayes
from tfp_bayes import cli
from tfp_bayes.label.task_images import LabelStudio, TaskImages

NAMES = ["cat", "dog", "eel", "fox"]
X = images(8)
CHOICES = "".join(f'<Choice value="{name}"/>' for name in NAMES)
CONFIG = (
    '<View><Text name="t" value="$note"/><Image name="photo" value="$picture"/>'
    '<Choices name="mood" toName="photo"><Choice value="happy"/></Choices>'
    f'<Choices name="kind" toName="photo">{CHOICES}<Choice value="other"/></Choices></View>'
)


def png(image):
    file = io.BytesIO()
    PIL.Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()


class Studio(http.server.BaseHTTPRequestHandler):
    """A stand-in for Label Studio that serves files only with its key."""

    def do_GET(self):
        given = self.headers.get("Authorization")
        self.server.seen.append((self.path, given))
        if self.path == "/data/upload/1/away.png":
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere + "/open/3.png")
            self.end_headers()
            return
        allowed = self.path.startswith("/open/") or given in ("Token abc", "Bearer five minutes")
        self.send_response(200 if allowed else 401)
        self.end_headers()
        if allowed:
            self.wfile.write(png(X[int(self.path.split("/")[-1][0])]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, body) == ("/api/token/refresh/", {"refresh": "a.b.c"})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"access": "five minutes"}')

    def log_message(self, *arguments):
        pass


@pytest.fixture
def studio():
    """Yield a stand-in server; a second one, to which it can redirect, is its attribute `other`."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Studio) for _ in range(2)]
    for server in servers:
        server.seen, server.url = [], f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    servers[0].elsewhere, servers[0].other = servers[1].url, servers[1]
    yield servers[0]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, the names of its classes and local files of Label Studio."""
    folder = tmp_path_factory.mktemp("backend")
    keras.utils.set_random_seed(0)
    network((12, 12, 1), 4).save(folder / "model.keras")
    (folder / "class_names.json").write_text(json.dumps(NAMES))
    (folder / "root").mkdir()
    for i, image in enumerate(X):
        (folder / "root" / f"{i}.png").write_bytes(png(image))
    PIL.Image.fromarray(np.tile(X[0], (2, 2, 3))).save(folder / "root" / "large.png")
    (folder / "root" / "broken.png").write_bytes(png(X[0])[:60])
    (folder / "secret.png").write_bytes(png(X[0]))
    return folder


def network(shape, num_classes):
    inputs = keras.Input(shape)
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    hidden = tfp_bayes.layers.MCDropout(0.5)(keras.layers.Dense(16, "relu")(hidden))
    outputs = keras.layers.Dense(num_classes, "softmax")(hidden)
    return tfp_bayes.BayesianModel(inputs, outputs, num_samples=5)


@pytest.fixture
def serve(folder, monkeypatch):
    """Return a function that runs the command up to its server and returns a client."""

    def run(*arguments):
        apps = []
        monkeypatch.setattr(flask.Flask, "run", lambda app, *address, **kwargs: apps.append(app))
        root = ["--local-root", str(folder / "root")]
        assert cli.main(["label-studio", str(folder / "model.keras"), *root, *arguments]) == 0
        return apps[0].test_client()

    return run


def ask(client, addresses, **more):
    """Send a request for predictions as Label Studio does; return status and JSON."""
    tasks = [{"id": i, "data": {"picture": a, "note": "x"}} for i, a in enumerate(addresses)]
    params = {"login": None, "password": None, "context": None, **more.pop("params", {})}
    body = {"tasks": tasks, "project": "1.1700000000", "label_config": CONFIG, "params": params}
    answer = client.post("/predict", json={**body, **more})
    return answer.status_code, answer.get_json()


def local(name):
    return f"/data/local-files/?d={name}"


@pytest.mark.parametrize("score", ["predictive_entropy", "mutual_information", "confidence"])
def test_each_task_gets_a_guess_and_a_score(score, serve, folder):
    client = serve("--score", score, "--num-samples", "6", "--seed", "2")
    assert client.get("/health").get_json()["status"] == "UP"
    setup = {"project": "1.1700000000", "schema": CONFIG, "hostname": "http://localhost:8080"}
    setup = client.post("/setup", json={**setup, "access_token": "k", "extra_params": None})
    version = setup.get_json()["model_version"]
    status, answer = ask(client, [local(f"{i}.png") for i in range(8)])
    assert status == 200
    results = answer["results"]
    model = keras.models.load_model(folder / "model.keras")
    p = model.predict_uncertainty(X, num_samples=6, seed=2)
    for result, mean in zip(results, p.mean):
        assert result["model_version"] == version
        assert result["result"] == [
            {
                "from_name": "kind",
                "to_name": "photo",
                "type": "choices",
                "value": {"choices": [NAMES[mean.argmax()]]},
                "score": pytest.approx(mean.max(), rel=1e-6),
            }
        ]
    scores = np.array([result["score"] for result in results])
    expected = {
        "predictive_entropy": 1 - p.predictive_entropy / math.log(4),
        "mutual_information": 1 - p.mutual_information / math.log(4),
        "confidence": p.mean.max(-1),
    }[score]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    # Label Studio shows the lowest score first, so that must be the most uncertain task.
    doubt = {"confidence": -p.mean.max(-1)}.get(score, getattr(p, score, None))
    assert scores.argmin() == doubt.argmax()
    assert client.get("/versions").get_json() == {"versions": [version]}


def test_images_from_everywhere(serve, studio):
    client = serve()
    known = {"project": "1.1700000000", "hostname": studio.url, "access_token": "abc"}
    assert client.post("/setup", json={**known, "schema": CONFIG}).status_code == 200
    data = f"data:image/png;base64,{base64.b64encode(png(X[3])).decode()}"
    addresses = [
        local("broken.png"),
        local("3.png"),
        data,
        "/data/upload/1/3.png",
        f"{studio.url}/data/upload/1/3.png",
        f"{studio.elsewhere}/open/3.png",
        "/data/upload/1/away.png",
        local("large.png"),
        f"{studio.url}/open/9.png",  # the connection breaks
        None,
    ]
    status, answer = ask(client, addresses, params={"hostname": studio.url})
    assert status == 200
    results = answer["results"]
    nothing = {"result": [], "score": 1.0, "model_version": results[0]["model_version"]}
    assert [results[0], *results[8:]] == [nothing] * 3
    assert len({json.dumps(result) for result in results[1:7]}) == 1
    assert len(results[1]["result"]) == len(results[7]["result"]) == 1
    keys = [given for _, given in studio.seen]
    assert keys == ["Token abc"] * len(keys)
    assert [given for _, given in studio.other.seen] == [None, None]  # the other gets no key


def test_a_personal_access_token_is_exchanged(serve, studio, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a.b.c")
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    client = serve()
    # A request cannot make the backend send the key to another address.
    more = {"params": {"hostname": studio.elsewhere}}
    assert ask(client, ["/data/upload/1/3.png"], **more)[0] == 200
    assert studio.seen == [("/data/upload/1/3.png", "Bearer five minutes")]
    assert not studio.other.seen


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (local("../secret.png"), "Expected a file below"),
        (local("/etc/passwd"), "Expected a file below"),
        (local(""), "Expected a file below"),
        ("file:///etc/passwd", "Expected the address of an image"),
        ("s3://bucket/1.png", "Hint: for cloud storage, enable presigned URLs"),
        ("/data/upload/1/3.png", "Expected the address of an image"),
        (5, "Expected the address of an image"),
        (local("broken.png"), "broken.png"),
    ],
)
def test_images_that_are_not_read(address, text, folder):
    with pytest.raises(ValueError, match=re.escape(text)):
        TaskImages(folder / "root").read(address, (12, 12, 1), LabelStudio())


def test_no_image_at_all_is_an_error(serve):
    """If every image fails, a common cause is likely, so Label Studio shows the error."""
    status, answer = ask(serve(), [local("../secret.png"), "s3://bucket/1.png"])
    assert status == 400
    assert "Expected" in answer["error"]


def test_a_file_that_needs_a_key(studio):
    with pytest.raises(ValueError, match=r"status 401\. Hint: set LABEL_STUDIO_API_KEY"):
        TaskImages().read("/data/upload/1/3.png", (12, 12, 1), LabelStudio(studio.url))


def test_answers_to_other_requests(serve):
    client = serve()
    for config in (CONFIG.replace('"eel"', '"eal"'), CONFIG.replace("Image", "Audio"), "<View>"):
        answer = client.post("/setup", json={"schema": config, "project": "1.1"})
        assert answer.status_code == 400
        assert "Choices ['cat', 'dog', 'eel', 'fox'] for an Image" in answer.get_json()["error"]
        assert ask(client, [local("1.png")], label_config=config)[0] == 400
    assert ask(client, [])[1] == {"results": []}
    assert client.post("/predict", json={"tasks": None}).status_code == 400
    assert client.post("/predict", json=[1]).status_code == 400
    started = {"action": "START_TRAINING", "project": {"id": 1, "label_config": CONFIG}}
    assert client.post("/webhook", json=started).get_json()["status"] == "ok"
    assert client.post("/train", json={"annotations": []}).status_code == 200


def test_a_new_file_is_a_new_model(serve, folder, tmp_path, capsys):
    client = serve("--classes", "cat,dog,eel,fox")
    before = ask(client, [local("1.png")])[1]["results"][0]
    path, saved = folder / "model.keras", (folder / "model.keras").read_bytes()
    try:
        path.write_bytes(saved[:1000])  # half written
        assert ask(client, [local("1.png")])[1]["results"][0] == before
        assert "Using the previous model" in capsys.readouterr().err
        network((12, 12, 1), 4).save(path)
        after = ask(client, [local("1.png")])[1]["results"][0]
        assert after["model_version"] != before["model_version"]
        assert after["score"] != before["score"]
    finally:
        path.write_bytes(saved)


def test_strangers(serve, capsys, monkeypatch, folder):
    command = ["label-studio", str(folder / "model.keras"), "--host", "0.0.0.0"]
    assert cli.main(command) == 1
    assert "Expected BASIC_AUTH_USER and BASIC_AUTH_PASS" in capsys.readouterr().err
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    assert cli.main(command[:2]) == 1
    assert "Expected LABEL_STUDIO_URL" in capsys.readouterr().err
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    monkeypatch.setenv("BASIC_AUTH_USER", "studio")
    monkeypatch.setenv("BASIC_AUTH_PASS", "pass")
    client = serve("--host", "0.0.0.0")
    assert client.get("/health").status_code == 401
    assert client.get("/health", auth=("studio", "wrong")).status_code == 401
    assert client.get("/health", auth=("studio", "pass")).status_code == 200


def test_models_that_are_no_classifier_of_images(folder, tmp_path, capsys):
    inputs = keras.Input((None, None, 1))
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "any.keras")
    assert cli.main(["label-studio", str(tmp_path / "any.keras")]) == 1
    assert "Expected a model with a fixed image size" in capsys.readouterr().err
    assert cli.main(["label-studio", str(folder)]) == 1
    assert "Expected a .keras file" in capsys.readouterr().err
