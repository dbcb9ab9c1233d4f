"""Labeling by people: the session, the page in a real browser, and Label Studio's files."""

import base64
import errno
import functools
import gc
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import keras
import numpy as np
import PIL.Image
import pytest
from learners import arranged
from werkzeug.serving import make_server

from tfp_bayes import BayesianModel, cli
from tfp_bayes._plumbing.images import SIDE, png
from tfp_bayes.active import ActiveLearner
from tfp_bayes.label import Session, StartSession, export_tasks, import_labels
from tfp_bayes.label.server import make_app
from tfp_bayes.layers import MCDropout
from tfp_bayes.studies import runs

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 8, 8, 1)).astype("uint8")
Y = X.reshape(60, -1)[:, :3].argmax(1)
NAMES = ["cat", "dog", "eel"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@functools.cache
def network():
    """Return one model to all learners, which start from new weights, so that it is traced once."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    hidden = MCDropout(0.3)(keras.layers.Dense(8, activation="relu")(hidden))
    model = BayesianModel(inputs, keras.layers.Dense(3, "softmax")(hidden), num_samples=5)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def make(path=None, **kwargs):
    arguments = {
        "initial": (np.arange(5), Y[:5]),
        "test_data": (X[40:], Y[40:]),
        "ignore": np.arange(40, 60),
        "query_size": 4,
        "steps": 3,
        "checkpoint": path,
    }
    return ActiveLearner(network(), X, **arranged(**{**arguments, **kwargs}))


def ready(learner):
    session = Session(learner, NAMES)
    session.start()
    session.wait()
    return session


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# The session.


def test_labels_skips_and_undo_reach_the_checkpoint(tmp_path):
    path = tmp_path / "c.npz"
    session = ready(make(path))
    images = session.state()["images"]
    a, b, c, d = (image["index"] for image in images)
    assert all(image["open"] and image["guess"] in NAMES for image in images)
    session.label(a, "eel")
    session.label(b, "dog")
    session.skip(c)
    session.undo(b)
    # The process dies here; another one opens the run.
    again = make(path)
    assert again.labels[a] == 2
    assert again.labels[b] == -1
    assert again.pool.pending.tolist() == [b, d]
    assert again.pool.acquired_at[c] == -2
    again.take_back(np.array([c, a]))
    assert again.pool.pending.tolist() == [a, b, c, d]
    session = ready(again)
    for index in (a, b, c, d):
        session.label(index, "cat")
    session.start()
    session.wait()
    state = session.state()
    assert len(state["history"]) == 2
    assert state["history"][1]["acquired"] == 4
    assert not {a, b, c, d} & {image["index"] for image in state["images"]}
    with pytest.raises(ValueError, match="final once the model is trained"):
        session.undo(a)


def test_what_is_shown_belongs_to_its_index(tmp_path):
    """Pictures, guesses and scores are those of the index that an answer goes to."""
    learner = make()
    session = ready(learner)
    client = make_app(session, "secret").test_client()
    state = session.state()
    assert state["history"] == [{"acquired": 0, "accuracy": learner.history[0].test_accuracy}]
    export_tasks(learner, tmp_path / "tasks.json", NAMES)
    tasks = {t["data"]["index"]: t for t in json.loads((tmp_path / "tasks.json").read_text())}
    assert len(tasks) == len(state["images"]) == 4
    for image in state["images"]:
        i, task = image["index"], tasks[image["index"]]
        (p,) = learner.pool.probabilities_of([i])
        guess = NAMES[p.argmax()], pytest.approx(p.max())
        assert (image["guess"], image["probability"]) == guess
        (prediction,) = task["predictions"]
        (choice,) = prediction["result"][0]["value"]["choices"]
        assert (choice, prediction["score"]) == guess
        assert image["score"] == learner.pool.scores[i]
        in_file = base64.b64decode(task["data"]["image"].removeprefix("data:image/png;base64,"))
        for picture in (in_file, client.get(f"/image/{i}?token=secret").data):
            pixels = np.asarray(PIL.Image.open(io.BytesIO(picture)).convert("L"))
            centers = pixels[SIDE // 16 :: SIDE // 8, SIDE // 16 :: SIDE // 8]
            # A single channel is drawn dark on light.
            assert np.corrcoef(centers.ravel(), X[i].ravel())[0, 1] < -0.99


def test_answers_that_are_refused():
    session = ready(make())
    index = session.state()["images"][0]["index"]
    with pytest.raises(ValueError, match="label='cow'"):
        session.label(index, "cow")
    with pytest.raises(ValueError, match="from the last proposal"):
        session.label(59, "cat")
    with pytest.raises(ValueError, match="from the last proposal"):
        session.skip(59)
    with pytest.raises(ValueError, match="answers to the last proposal"):
        session.undo(index)
    session._thread = threading.Thread(target=time.sleep, args=(0.5,))
    session._thread.start()
    with pytest.raises(ValueError, match="while the model trains"):
        session.label(index, "cat")
    assert session.state()["images"] == []


def test_an_empty_pool_is_reported():
    learner = make()
    learner.pool.ignore(learner.pool.unlabelled)
    state = ready(learner).state()
    assert "Expected examples in the pool. Received: 0" in state["error"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_failure_is_reported(tmp_path, monkeypatch):
    learner = make(tmp_path / "c.npz")
    monkeypatch.setattr(learner.storage, "save", full_disk)
    state = ready(learner).state()
    assert "No space left on device" in state["error"]
    assert not state["busy"]


# The server.


def test_nothing_without_the_token():
    session = ready(make())
    client = make_app(session, "secret").test_client()
    index = session.state()["images"][0]["index"]
    body = {"index": index, "label": "cat"}
    assert client.get("/").status_code == 403
    assert client.get("/state?token=wrong").status_code == 403
    assert client.post("/label", json=body).status_code == 403
    # A form on another site can put a token into an address, but not into a header.
    assert client.post("/label?token=secret", json=body).status_code == 403
    # Other host names for this machine are refused (DNS rebinding).
    hostile = {"X-Token": "secret", "Host": "evil.example"}
    assert client.post("/label", json=body, headers=hostile).status_code == 403
    assert session.learner.labels[index] == -1
    good = {"X-Token": "secret"}
    assert client.get("/?token=secret").status_code == 200
    shown = client.get(f"/image/{index}", headers=good)
    assert shown.data[:4] == b"\x89PNG"
    assert "max-age" in shown.headers["Cache-Control"]  # the page shows thumbnails repeatedly
    assert client.get("/image/60", headers=good).status_code == 404
    for broken in ({}, {"index": "x", "label": "cat"}, {"index": index, "label": "cow"}, []):
        assert client.post("/label", json=broken, headers=good).status_code == 400
    assert client.post("/label", json=body, headers=good).status_code == 200
    assert session.learner.labels[index] == 0


def test_a_full_disk_is_reported_and_the_answer_does_not_count(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    session = ready(make(path))
    client = make_app(session, "secret").test_client()
    a, b, *_ = (image["index"] for image in session.state()["images"])
    with monkeypatch.context() as patch:
        patch.setattr("tfp_bayes._plumbing.journal.os.fsync", full_disk)
        body = {"index": a, "label": "cat"}
        answer = client.post("/label", json=body, headers={"X-Token": "secret"})
    assert answer.status_code == 507
    assert "Not saved: [Errno 28] No space left on device" in answer.json["error"]
    session.label(b, "dog")
    again = make(path)
    assert again.labels[[a, b]].tolist() == [-1, 1]
    assert session.learner.labels[a] == -1


@pytest.fixture
def browser():
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("needs Chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1100,900",
    ):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("not within the time")


def test_a_person_labels_in_a_browser(browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    learner = make(tmp_path / "c.npz")
    session = ready(learner)
    app = make_app(session)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.get(f"http://127.0.0.1:{server.port}/?token={app.config['TOKEN']}")

        def status(text):
            wait_for(lambda: text in browser.find_element(By.ID, "status").text)

        def press(key):
            browser.find_element(By.TAG_NAME, "body").send_keys(key)

        status("4 of 4 images")
        width = "return document.getElementById('image').naturalWidth"
        wait_for(lambda: browser.execute_script(width) > 0)
        assert "% sure. Score: 0." in browser.find_element(By.ID, "guess").text
        assert "a label of this image, by bald" in browser.find_element(By.ID, "score").text
        press("g")  # hide the guess, which can bias the answer
        assert browser.find_element(By.ID, "guess").text.startswith("Score: 0.")
        browser.refresh()
        status("4 of 4 images")
        assert "% sure" not in browser.find_element(By.ID, "guess").text
        browser.find_element(By.ID, "shows").click()
        assert "% sure" in browser.find_element(By.ID, "guess").text
        a, b, c, d = (image["index"] for image in session.state()["images"])
        browser.find_element(By.CSS_SELECTOR, "[data-label=dog]").click()
        status("3 of 4 images")
        press("2")  # the number of the third class
        status("2 of 4 images")
        press("u")
        status("3 of 4 images")
        assert learner.labels[[a, b]].tolist() == [1, -1]
        press("0")
        status("2 of 4 images")
        press("s")
        status("1 of 4 images")
        browser.find_elements(By.CSS_SELECTOR, "#classes button")[0].click()
        status("All labeled")
        assert learner.labels[[a, b, c, d]].tolist() == [1, 0, -1, 0]
        browser.save_screenshot(str(tmp_path / "page.png"))
        browser.find_element(By.ID, "curve").click()  # away from the buttons
        press(Keys.ENTER)
        status("4 of 4 images")
        assert [row.num_acquired for row in learner.history] == [0, 3]
        assert len(browser.find_elements(By.CSS_SELECTOR, "#curve circle")) == 2
        ticks = browser.find_elements(By.CSS_SELECTOR, "#curve text")
        assert {"0", "1", "2", "3", "100", "labels acquired"} <= {tick.text for tick in ticks}
        browser.save_screenshot(str(tmp_path / "trained.png"))
        assert browser.find_element(By.ID, "message").text == ""
        assert [e for e in browser.get_log("browser") if "favicon" not in e["message"]] == []
    finally:
        server.shutdown()


def test_a_start_without_labels_in_a_browser(browser, tmp_path):
    from selenium.webdriver.common.by import By

    ready_session = ready(make())
    session = StartSession(
        np.array([8, 2]),
        NAMES,
        tmp_path / "start.json",
        lambda indices, labels: ready_session,
        lambda index: X[index],
    )
    app = make_app(session)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.get(f"http://127.0.0.1:{server.port}/?token={app.config['TOKEN']}")

        def status(text):
            wait_for(lambda: text in browser.find_element(By.ID, "status").text)

        status("2 of 2 images")
        assert "No guess yet" in browser.find_element(By.ID, "guess").text
        assert "represents a group" in browser.find_element(By.ID, "score").text
        assert not browser.find_element(By.ID, "curve").is_displayed()  # no accuracy to draw
        keys = [key.text for key in browser.find_elements(By.CSS_SELECTOR, "#classes kbd")]
        assert keys == ["0", "1", "2"]
        fit = "return getComputedStyle(document.getElementById('image')).objectFit"
        assert browser.execute_script(fit) == "contain"  # photographs keep their proportions
        browser.find_element(By.CSS_SELECTOR, "[data-label=dog]").click()
        status("1 of 2 images")
        browser.find_element(By.ID, "skip").click()
        status("All labeled")
        browser.find_element(By.ID, "next").click()
        status("4 of 4 images")  # the learner's proposal
        assert json.loads((tmp_path / "start.json").read_text()) == {"8": 1, "2": None}
        assert [e for e in browser.get_log("browser") if "favicon" not in e["message"]] == []
    finally:
        server.shutdown()


def test_a_photograph_keeps_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype="uint8")
    shown = PIL.Image.open(io.BytesIO(png(image))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(shown), image)


class Page:
    """The command `label` in a separate process."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        tool = Path(sys.executable).with_name("tfp-bayes")
        self.process = subprocess.Popen(
            [tool, "label", "--run", folder, "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        address = next(line for line in self.process.stdout if "http" in line).split()[-1]
        self.base, self.token = address.split("?token=")

    def __enter__(self):
        wait_for(self.is_ready, 120)
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"X-Token": self.token})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def is_ready(self):
        try:
            return not self.call("state")["busy"]
        except OSError:
            return False

    def label(self):
        """Label every image that is shown."""
        for image in self.call("state")["images"]:
            if image["open"]:
                self.call("label", {"index": image["index"], "label": "7"})


def rounds_on_disk(folder):
    with (folder / "history.csv").open() as file:
        assert (
            len(file.readlines()) == json.loads((folder / "summary.json").read_text())["rounds"] + 2
        )
    return json.loads((folder / "summary.json").read_text())["rounds"]


def test_command(tmp_path, capsys):
    """The command locks the run that it serves, and labels survive when it is killed."""
    folder, tasks = tmp_path / "run", tmp_path / "tasks.json"
    quick = ["--rounds", "0", "--steps", "2", "--num-samples", "2", "--evaluation-samples", "1"]
    quick += ["--initial", "balanced"]
    more = ["--candidates", "30", "--query-size", "3", "--out", str(folder)]

    def tool(*arguments):
        status = cli.main(list(map(str, arguments)))
        return status, "".join(capsys.readouterr())

    assert tool("active-learning", *quick, *more)[0] == 0
    gc.collect()  # collects the learner, which releases its lock
    model = (folder / "model.keras").read_bytes()
    with Page(folder) as page:
        index = page.call("state")["images"][0]["index"]
        page.call("label", {"index": index, "label": "7"})
        for command in (["label"], ["import-labels", tasks]):
            status, text = tool(*command, "--run", folder)
            assert status == 1
            assert f"in use by process {page.process.pid} on " in text
        assert "2 tasks" in tool("export-tasks", "--run", folder, tasks)[1]  # only reads the run
        os.kill(page.process.pid, signal.SIGKILL)
        page.process.wait()
    (folder / f".unfinished-{page.process.pid}-summary.json").write_text("{")
    assert "2 tasks" in tool("export-tasks", "--run", folder, tasks)[1]
    tasks.write_text(json.dumps(annotated(json.loads(tasks.read_text()), [["3"], ["4"]])))
    assert "Imported 2 labels; 0 were known" in tool("import-labels", "--run", folder, tasks)[1]
    assert rounds_on_disk(folder) == 1
    assert (folder / "model.keras").read_bytes() != model
    assert not list(folder.glob(".unfinished*"))
    gc.collect()
    with Page(folder) as page:
        page.label()
        page.call("next", {})
        assert page.call("state")["busy"]
        os.kill(page.process.pid, signal.SIGINT)
        errors = page.process.communicate(timeout=60)[1]
        assert page.process.returncode == 130
        assert "Stopped during training; every label is saved." in errors
        assert "FATAL" not in errors.upper()
    learner, _, _ = runs.open_run(folder)
    assert len(learner.pool.unsettled) == 3
    assert tool("label", "--run", tmp_path / "none")[0] == 1


# Label Studio.


def annotated(tasks, answers):
    """Return tasks with annotations in the format of Label Studio's export."""
    exported = []
    for task, choices in zip(tasks, answers):
        annotations = [
            {
                "was_cancelled": choice is None,
                # A canceled annotation keeps what was chosen before.
                "result": [
                    {
                        "type": "choices",
                        "value": {"choices": [choice or "cat"]},
                        "from_name": "label",
                    }
                ],
            }
            for choice in choices
        ]
        exported.append({"id": 7, "data": task["data"], "annotations": annotations})
    return exported


def exported(learner, path, answers):
    """Export the learner's tasks, answer them and write the file that Label Studio would export."""
    export_tasks(learner, path, NAMES)
    tasks = json.loads(path.read_text())
    path.write_text(json.dumps(annotated(tasks, answers)))
    return learner.pool.pending.copy()


def test_label_studio_and_back(tmp_path):
    learner = make()
    assert export_tasks(learner, tmp_path / "tasks.json", NAMES) == 4
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["index"] for task in tasks] == learner.pool.pending.tolist()
    assert tasks[0]["data"]["image"].startswith("data:image/png;base64,iVBOR")
    guess = tasks[0]["predictions"][0]["result"][0]["value"]["choices"][0]
    assert guess in NAMES
    answers = [["dog"], [None], ["cat", "eel", "eel"], []]
    (tmp_path / "out.json").write_text(json.dumps(annotated(tasks, answers)))
    proposed = learner.pool.pending.copy()
    assert import_labels(learner, tmp_path / "out.json", NAMES) == (2, 0, 0, 2)
    assert learner.labels[proposed].tolist() == [1, -1, 2, -1]
    assert learner.pool.pending.tolist() == proposed[[1, 3]].tolist()
    # The project continues, and its export is imported twice more: first unchanged, then with one
    # new and one changed answer.
    assert import_labels(learner, tmp_path / "out.json", NAMES) == (0, 2, 0, 2)
    answers = [["dog"], ["cat"], ["cat"], []]
    (tmp_path / "out.json").write_text(json.dumps(annotated(tasks, answers)))
    assert import_labels(learner, tmp_path / "out.json", NAMES) == (1, 1, 1, 1)
    assert learner.labels[proposed].tolist() == [1, 0, 0, -1]
    # Importing the file again after training changes nothing.
    learner.train()
    assert import_labels(learner, tmp_path / "out.json", NAMES) == (0, 3, 0, 1)


def test_tasks_of_one_image_are_one_vote_each(tmp_path):
    """If tasks were imported into Label Studio twice, all of their annotations count."""
    learner, path = make(), tmp_path / "f.json"
    (a, *_) = exported(learner, path, [["dog"], [], [], []])
    first, *others = json.loads(path.read_text())
    twice = [first, *annotated([first] * 2, [["dog"], ["cat"]]), *others]
    path.write_text(json.dumps(twice))
    assert import_labels(learner, path, NAMES) == (1, 0, 0, 3)
    assert learner.labels[a] == 1
    path.write_text(json.dumps([first, *annotated([first], [["cat"]])]))
    with pytest.raises(ValueError, match=r"single most frequent answer .*\['dog', 'cat'\]"):
        import_labels(learner, path, NAMES)


def test_only_one_choice_of_the_tag_for_the_class_counts(tmp_path):
    learner, path = make(), tmp_path / "f.json"
    (a, *_) = exported(learner, path, [["dog"], [], [], []])
    tasks = json.loads(path.read_text())
    (result,) = tasks[0]["annotations"][0]["result"]
    other = {**result, "from_name": "second guess", "value": {"choices": ["cat"]}}
    tasks[0]["annotations"][0]["result"] = [other, other, result]
    path.write_text(json.dumps(tasks))
    assert import_labels(learner, path, NAMES) == (1, 0, 0, 3)
    assert learner.labels[a] == 1
    result["value"]["choices"] = ["cat", "dog"]
    path.write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=rf"\['cat', 'dog'\] as the class of image {a}"):
        import_labels(learner, path, NAMES)


def test_an_annotation_that_was_confirmed_replaces_a_later_answer(tmp_path):
    """An unchanged annotation does not, even if a file with it is imported again."""
    learner, path = make(), tmp_path / "f.json"
    (a, *_) = exported(learner, path, [["dog"]])
    tasks = json.loads(path.read_text())
    for updated_at, label, counts in (
        ("1", 1, (1, 0, 0)),
        ("1", 0, (0, 1, 0)),
        ("2", 1, (0, 0, 1)),
    ):
        tasks[0]["annotations"][0] |= {"id": 3, "updated_at": updated_at}
        path.write_text(json.dumps(tasks))
        assert import_labels(learner, path, NAMES)[:3] == counts
        assert learner.labels[a] == label
        learner.merge([a], [0])  # somebody corrects it
    learner, other = make(tmp_path / "a.npz"), make(tmp_path / "b.npz", query_size=3)
    exported(other, tmp_path / "f.json", [["dog"]] * 3)
    with pytest.raises(ValueError, match="Expected tasks of this run"):
        import_labels(learner, tmp_path / "f.json", NAMES)
    assert (learner.labels[5:] == -1).all()


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[{}]",
        "{}",
        '[{"data": {"index": 3}, "annotations": 5}]',
    ],
)
def test_files_that_are_no_export(text, tmp_path):
    (tmp_path / "f.json").write_text(text)
    learner = make()
    learner.propose()
    with pytest.raises(ValueError, match="Label Studio's format JSON"):
        import_labels(learner, tmp_path / "f.json", NAMES)


@pytest.mark.parametrize("answers", [["cow"], ["cat", "dog"]])
def test_answers_that_cannot_be_taken(answers, tmp_path):
    learner = make()
    export_tasks(learner, tmp_path / "t.json", NAMES)
    tasks = json.loads((tmp_path / "t.json").read_text())
    exported = annotated(tasks, [["cat"], answers])
    (tmp_path / "o.json").write_text(json.dumps(exported))
    with pytest.raises(ValueError, match="single most frequent answer"):
        import_labels(learner, tmp_path / "o.json", NAMES)
    assert (learner.labels[5:] == -1).all()
