"""`tfp-bayes active-learning --data`: a person labels a folder of images, and a model trains."""

import gc
import json

import keras
import numpy as np
import pytest
from photos import class_folders, picture, save

from tfp_bayes import cli, datasets
from tfp_bayes.commands import label_pool
from tfp_bayes.label import StartSession
from tfp_bayes.label.server import make_app

QUICK = ["--steps", "3", "--num-samples", "2", "--query-size", "3", "--candidates", "10"]
QUICK += ["--initial-size", "4", "--architecture", "gal"]


@pytest.fixture
def photos(tmp_path):
    """Dark and bright images of 12 x 16 pixels, in two folders that are not classes."""
    rng = np.random.default_rng(0)
    for i in range(20):
        dark = rng.integers(0, 90, (12, 16, 3), dtype="uint8")
        save(tmp_path / "photos" / "ab"[i // 10] / f"{i:02d}.png", dark + 150 * (i % 2 == 0))
    return tmp_path / "photos"


class Command:
    """Runs the command, but returns its session instead of serving the page."""

    def __init__(self, monkeypatch, folder, photos):
        self.folder, self.photos = folder, photos
        monkeypatch.setattr(label_pool, "serve", self.serve)

    def serve(self, session, port):
        self.session = session
        return 0

    def __call__(self, *arguments, classes="dark,bright"):
        self.session = None
        gc.collect()
        given = ["--data", self.photos, "--out", self.folder, "--classes", classes, *QUICK]
        assert cli.main(["active-learning", *map(str, given), *arguments]) == 0
        self.session.wait()
        return self.session

    def answer(self, count=None):
        """Label the shown images by their brightness, as a person would."""
        shown = [image for image in self.session.state()["images"] if image["open"]]
        for image in shown[:count]:
            bright = self.session.image(image["index"]).mean() > 100
            self.session.label(image["index"], "bright" if bright else "dark")
        return [image["index"] for image in shown]


def test_from_photographs_to_a_model(tmp_path, photos, monkeypatch):
    command = Command(monkeypatch, tmp_path / "run", photos)
    session = command()
    state = session.state()
    assert len(state["images"]) == 4
    assert {image["guess"] for image in state["images"]} == {None}
    assert session.image(0).shape == (12, 16, 3)
    start = command.answer(3)
    session = command("--resume")  # the process was killed after three answers
    assert [image["open"] for image in session.state()["images"]].count(True) == 1
    session.skip(start[3])
    session.undo(start[3])
    command.answer()
    session.start()
    session.wait()
    state = session.state()
    assert state["error"] is None
    assert len(state["images"]) == 3
    assert not {image["index"] for image in state["images"]} & set(start)
    assert (tmp_path / "run" / "model.keras").exists()

    command.answer(2)
    session = command("--resume")  # the process was killed in the middle of a batch
    again = session.state()["images"]
    assert [image["index"] for image in again] == [image["index"] for image in state["images"]]
    assert [image["open"] for image in again].count(True) == 1
    command.answer()
    session.start()
    session.wait()
    learner = session.session.learner
    assert [row.num_acquired for row in learner.history] == [0, 3]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"labels.csv", "model.keras", "class_names.json", "history.csv"}
    keras.models.load_model(tmp_path / "run" / "model.keras")
    with pytest.warns(UserWarning, match="Left out 13"):
        data = datasets.load(photos, labels=tmp_path / "run" / "labels.csv", skip_bad=True)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert [data.class_names[k] for k in y] == [
            "bright" if image.mean() > 100 else "dark" for image in x
        ]
    assert len(data.y_train) + len(data.y_test) == 7


def fails(capsys, *arguments):
    assert cli.main(["active-learning", *map(str, arguments)]) == 1
    return capsys.readouterr().err


def test_what_is_refused(tmp_path, photos, monkeypatch, capsys):
    run = ["--out", tmp_path / "run", *QUICK]
    pool = ["--data", photos, "--classes", "a,b"]
    assert "Expected --classes with" in fails(capsys, "--data", photos / "a", *run)
    assert "two different names" in fails(capsys, "--data", photos, "--classes", "a,a", *run)
    assert "a folder of images for --data" in fails(capsys, "--data", tmp_path / "no", *run)
    assert "Expected a run to resume" in fails(capsys, *pool, *run, "--resume")
    too_small = fails(capsys, *pool, "--out", tmp_path / "run", "--architecture", "kirsch")
    assert "Expected" in too_small  # before any image is labeled
    assert not (tmp_path / "run" / "labeling.json").exists()
    save(photos / "odd.png", picture(0, size=(30, 40)))
    assert "odd.png (30 x 40" in fails(capsys, *pool, *run)
    (photos / "odd.png").unlink()

    command = Command(monkeypatch, tmp_path / "run", photos)
    command()
    assert "a folder without a run" in fails(capsys, *pool, *run)
    command.session = None
    gc.collect()
    assert "class_names=['a', 'b'] (was" in fails(capsys, *pool, *run, "--resume")
    save(photos / "new.png", np.zeros((12, 16, 3), "uint8"))
    other = fails(capsys, *pool[:2], "--classes", "dark,bright", *run, "--resume")
    assert "files=" in other


def test_images_with_labels_are_a_data_set(tmp_path, monkeypatch, capsys):
    class_folders(tmp_path / "photos", {"cat": 2, "owl": 2})
    seen = {}
    monkeypatch.setattr(cli, "_run", lambda config, *rest: seen.update(config=config) or 0)
    assert cli.main(["active-learning", "--data", str(tmp_path / "photos"), "--out", "x"]) == 0
    assert seen["config"].dataset == str(tmp_path / "photos")
    data = ["--data", tmp_path / "photos", "--out", "x"]
    for flag in (
        ["--image-size", "16"],
        ["--skip-bad"],
        ["--dataset", "mnist"],
    ):  # these options would have no effect
        assert f"Expected no {flag[0]} with --data" in fails(capsys, *data, *flag)


class FakeSession:
    """Stand-in for the session of a learner."""

    busy = False

    def start(self):
        pass

    wait = start

    def state(self):
        return {"images": ["of the learner"]}


def test_start_session_and_its_page(tmp_path):
    made = []

    def make_session(indices, labels):
        made.append((indices.tolist(), labels.tolist()))
        return FakeSession()

    def open_session():
        path = tmp_path / "start.json"
        answers = json.loads(path.read_text()) if path.exists() else {}
        images = np.zeros((9, 4, 4, 3), "uint8")
        return StartSession(
            *(np.array([7, 2, 5]), ["cat", "owl"], path, make_session),
            lambda i: images[i] if i < 9 else None,
            {int(i): label for i, label in answers.items()},
        )

    session = open_session()
    client = make_app(session, "t").test_client()
    headers = {"X-Token": "t"}
    assert client.get("/image/7?token=t").status_code == 200
    assert client.get("/image/9?token=t").status_code == 404
    for body, message in [
        ({"index": 7, "label": "dog"}, "label='dog'"),
        ({"index": 3, "label": "cat"}, "Received: index=3"),
    ]:
        answer = client.post("/label", json=body, headers=headers)
        assert answer.status_code == 400
        assert message in answer.json["error"]
    for index in (7, 2, 5):
        assert client.post("/skip", json={"index": index}, headers=headers).status_code == 200
    assert "at least one image" in client.post("/next", json={}, headers=headers).json["error"]
    assert not made
    assert client.post("/undo", json={"index": 5}, headers=headers).json["error"] is None
    client.post("/label", json={"index": 5, "label": "cat"}, headers=headers)
    session = open_session()
    assert session.is_complete
    session.start()
    session.wait()
    assert made == [([5], [0])]
    assert session.state() == {"images": ["of the learner"]}
