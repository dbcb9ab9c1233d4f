"""People who label: the session, the page in a real browser, and Label Studio's files."""

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
import pytest
from werkzeug.serving import make_server

from tfp_bayes import BayesianModel
from tfp_bayes.active import ActiveLearner
from tfp_bayes.label import Session, export_tasks, import_labels
from tfp_bayes.label.server import make_app
from tfp_bayes.layers import MCDropout

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 8, 8, 1)).astype("uint8")
Y = X.reshape(60, -1)[:, :3].argmax(1)
NAMES = ["cat", "dog", "eel"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def make(path=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    hidden = MCDropout(0.3)(keras.layers.Dense(8, activation="relu")(hidden))
    model = BayesianModel(inputs, keras.layers.Dense(3, "softmax")(hidden), num_samples=5)
    model.compile("adam", "sparse_categorical_crossentropy")
    return ActiveLearner(
        model,
        X,
        initial=np.arange(5),
        initial_labels=Y[:5],
        test_data=(X[40:], Y[40:]),
        ignore=np.arange(40, 60),
        query_size=4,
        steps=3,
        checkpoint=path,
    )


def ready(learner):
    session = Session(learner, NAMES)
    session.start()
    session.wait()
    return session


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
    assert again.pending.tolist() == [b, d]
    assert again.pool.acquired_at[c] == -2
    again.take_back(np.array([c, a]))
    assert again.pending.tolist() == [a, b, c, d]
    session = ready(again)
    for index in (a, b, c, d):
        session.label(index, "cat")
    session.start()
    session.wait()
    state = session.state()
    assert len(state["history"]) == 2
    assert state["history"][1]["acquired"] == 4
    assert not {a, b, c, d} & {image["index"] for image in state["images"]}
    with pytest.raises(ValueError, match="learned from an answer"):
        session.undo(a)


def test_what_the_page_must_not_do():
    session = ready(make())
    index = session.state()["images"][0]["index"]
    with pytest.raises(ValueError, match="label='cow'"):
        session.label(index, "cow")
    with pytest.raises(ValueError, match="out of the last proposal"):
        session.label(59, "cat")
    with pytest.raises(ValueError, match="out of the last proposal"):
        session.skip(59)
    with pytest.raises(ValueError, match="answers to the last proposal"):
        session.undo(index)
    session._thread = threading.Thread(target=time.sleep, args=(0.5,))
    session._thread.start()
    with pytest.raises(ValueError, match="while the model trains"):
        session.label(index, "cat")
    assert session.state()["images"] == []


def test_an_empty_pool_is_said():
    learner = make()
    learner.pool.ignore(learner.pool.unlabelled[3:])
    state = ready(learner).state()
    assert "at least query_size=4 examples" in state["error"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_failure_is_said(monkeypatch):
    learner = make()
    monkeypatch.setattr(learner, "checkpoint", Path(os.devnull, "full"))  # cannot be written
    state = ready(learner).state()
    assert os.devnull in state["error"]
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
    # A form of another site can put a token in an address, not in a header.
    assert client.post("/label?token=secret", json=body).status_code == 403
    # Nor may another name lead here (DNS rebinding).
    hostile = {"X-Token": "secret", "Host": "evil.example"}
    assert client.post("/label", json=body, headers=hostile).status_code == 403
    assert session.learner.labels[index] == -1
    good = {"X-Token": "secret"}
    assert client.get("/?token=secret").status_code == 200
    assert client.get(f"/image/{index}", headers=good).data[:4] == b"\x89PNG"
    assert client.get("/image/60", headers=good).status_code == 404
    for broken in ({}, {"index": "x", "label": "cat"}, {"index": index, "label": "cow"}, []):
        assert client.post("/label", json=broken, headers=good).status_code == 400
    assert client.post("/label", json=body, headers=good).status_code == 200
    assert session.learner.labels[index] == 0


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
        assert "% sure" in browser.find_element(By.ID, "guess").text
        a, b, c, d = (image["index"] for image in session.state()["images"])
        browser.find_element(By.CSS_SELECTOR, "[data-label=dog]").click()
        status("3 of 4 images")
        press("2")  # the third class, by its number
        status("2 of 4 images")
        press("u")
        status("3 of 4 images")
        assert learner.labels[[a, b]].tolist() == [1, -1]
        press("0")
        status("2 of 4 images")
        press("s")
        status("1 of 4 images")
        browser.find_elements(By.CSS_SELECTOR, "#classes button")[0].click()
        status("All labelled")
        assert learner.labels[[a, b, c, d]].tolist() == [1, 0, -1, 0]
        browser.save_screenshot(str(tmp_path / "page.png"))
        browser.find_element(By.ID, "curve").click()  # away from the buttons
        press(Keys.ENTER)
        status("4 of 4 images")
        assert [row.num_acquired for row in learner.history] == [0, 3]
        assert len(browser.find_elements(By.CSS_SELECTOR, "#curve circle")) == 2
        assert browser.find_element(By.ID, "message").text == ""
        assert [e for e in browser.get_log("browser") if "favicon" not in e["message"]] == []
    finally:
        server.shutdown()


def test_command(tmp_path):
    """The command serves a run, and what was labelled is there after it was killed."""
    tool = Path(sys.executable).with_name("tfp-bayes")
    quick = ["--rounds", "0", "--steps", "2", "--num-samples", "2", "--evaluation-samples", "1"]
    more = ["--candidates", "30", "--query-size", "3", "--out", "run"]
    subprocess.run([tool, "active-learning", *quick, *more], cwd=tmp_path, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [tool, "label", "--run", "run", "--port", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        address = next(line for line in process.stdout if "http" in line).split()[-1]
        base, token = address.split("?token=")

        def call(path, body=None):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(base + path, data, {"X-Token": token})
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)

        def up():
            try:
                return not call("state")["busy"]
            except OSError:
                return False

        wait_for(up, 60)
        index = call("state")["images"][0]["index"]
        call("label", {"index": index, "label": "7"})
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [tool, "export-tasks", "--run", "run", "tasks.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2 tasks" in done.stdout  # the third has its label
    missing = subprocess.run(
        [tool, "label", "--run", "none"], cwd=tmp_path, capture_output=True, text=True
    )
    assert missing.returncode == 1
    assert "no config.json" in missing.stderr


# Label Studio.


def annotated(tasks, answers):
    """What Label Studio exports: the tasks, with annotations."""
    exported = []
    for task, choices in zip(tasks, answers):
        annotations = [
            {
                "was_cancelled": choice is None,
                "result": []
                if choice is None
                else [{"type": "choices", "value": {"choices": [choice]}, "from_name": "label"}],
            }
            for choice in choices
        ]
        exported.append({"id": 7, "data": task["data"], "annotations": annotations})
    return exported


def test_label_studio_and_back(tmp_path):
    learner = make()
    assert export_tasks(learner, tmp_path / "tasks.json", NAMES) == 4
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["index"] for task in tasks] == learner.pending.tolist()
    assert tasks[0]["data"]["image"].startswith("data:image/png;base64,iVBOR")
    guess = tasks[0]["predictions"][0]["result"][0]["value"]["choices"][0]
    assert guess in NAMES
    answers = [["dog"], [None], ["cat", "eel", "eel"], []]
    (tmp_path / "out.json").write_text(json.dumps(annotated(tasks, answers)))
    proposed = learner.pending.copy()
    assert import_labels(learner, tmp_path / "out.json", NAMES) == (2, 2)
    assert learner.labels[proposed].tolist() == [1, -1, 2, -1]
    assert learner.pending.tolist() == proposed[[1, 3]].tolist()


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
    with pytest.raises(ValueError, match="Label Studio's export in JSON"):
        import_labels(learner, tmp_path / "f.json", NAMES)


@pytest.mark.parametrize("answers", [["cow"], ["cat", "dog"]])
def test_answers_that_cannot_be_taken(answers, tmp_path):
    learner = make()
    export_tasks(learner, tmp_path / "t.json", NAMES)
    tasks = json.loads((tmp_path / "t.json").read_text())
    exported = annotated(tasks, [["cat"], answers])
    (tmp_path / "o.json").write_text(json.dumps(exported))
    with pytest.raises(ValueError, match="one most frequent answer"):
        import_labels(learner, tmp_path / "o.json", NAMES)
    assert (learner.labels[5:] == -1).all()
