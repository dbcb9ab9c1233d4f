"""Killed workers, killed drivers, two drivers and failing parts: no part is lost or duplicated.

The job is `squares.py`, which needs no TensorFlow. Stand-ins for the package and for TensorFlow are
on the path of its processes, so these start quickly.
"""

import contextlib
import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfp_bayes._plumbing.lock import LockedError
from tfp_bayes.scale.job import Job, complete
from tfp_bayes.scale.run import FailedPartsError

pytest.importorskip("pyarrow")
HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "tfp_bayes"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("path")
    (folder / "tfp_bayes").mkdir()
    (folder / "tfp_bayes" / "__init__.py").write_text(
        f"__path__ = [{str(PACKAGE)!r}]\n__version__ = '0'\n"
    )
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text(
        "import unittest.mock\nconfig = unittest.mock.MagicMock()\n"
    )
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{HERE}"}


@pytest.fixture(scope="module")
def run(environment):
    """Function that starts the job in a process and, with `wait`, waits for its end."""

    def start(folder, engine="local", workers=1, hold=False, wait=True):
        arguments = [sys.executable, str(HERE / "squares.py"), str(folder), engine]
        process = subprocess.Popen(
            [*arguments, str(workers), str(hold)],
            env=environment,
            cwd=folder,  # Ray would put the package's folder first on the path
            stderr=subprocess.PIPE,
            text=True,
        )
        if wait:
            _, process.errors = process.communicate(timeout=100)
        return process

    return start


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = run(folder)
    assert process.returncode == 0, process.errors
    return content(folder)


def content(folder):
    files = [
        *(folder / "parts").iterdir(),
        *(folder / name for name in ("summary.json", "_SUCCESS")),
    ]
    return {path.name: path.read_bytes() for path in files}


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def parts(folder):
    return [path for path in folder.glob("parts/part-*") if path.suffix == ".parquet"]


def workers_of(folder):
    return {int(path.name.split("-")[2]) for path in folder.glob("mark-*")}


def begun_parts(folder):
    """First row of each part that was begun, once for each attempt."""
    return [path.name.split("-")[1] for path in folder.glob("mark-*")]


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_killed_worker_costs_a_part_that_is_made_again(engine, run, undisturbed, tmp_path):
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("no Ray")
    process = run(tmp_path, engine, workers=2, hold=True, wait=False)
    wait_for(lambda: len(begun_parts(tmp_path)) == 5)  # three are done, and two are waiting
    os.kill(max(workers_of(tmp_path)), signal.SIGKILL)
    wait_for(lambda: len(workers_of(tmp_path)) == 3)  # the new one begins the next part
    (tmp_path / "go").touch()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert content(tmp_path) == undisturbed
    assert len(workers_of(tmp_path)) == 3  # the other worker went on
    begun = begun_parts(tmp_path)
    assert len(begun) == len(set(begun)) + 1  # only one part was begun twice


def test_a_deadly_part_is_set_aside(run, undisturbed, tmp_path):
    (tmp_path / "deadly").touch()
    process = run(tmp_path, "processes", workers=2)
    assert process.returncode == 1
    assert "part 5: its worker died 3 times (killed by signal 9). Hint" in process.errors
    assert len(parts(tmp_path)) == 11
    assert begun_parts(tmp_path).count("50") == 3
    (tmp_path / "deadly").unlink()
    assert run(tmp_path).returncode == 0
    assert content(tmp_path) == undisturbed


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray")
def test_a_killed_node_costs_a_part_that_another_makes(run, undisturbed, tmp_path):
    process = run(tmp_path, "cluster", workers=2, hold=True)
    assert process.returncode == 0, process.errors
    assert content(tmp_path) == undisturbed
    assert len(workers_of(tmp_path)) == 2  # without a third processor, no new worker starts


def test_a_killed_driver_goes_on_where_it_was(run, undisturbed, tmp_path):
    process = run(tmp_path, "processes", workers=2, hold=True, wait=False)
    wait_for(lambda: len(parts(tmp_path)) == 3)
    second = run(tmp_path, "processes", workers=2)  # while the first one runs
    assert second.returncode == 1
    assert f"LockedError: Expected to be the only writer of {tmp_path}" in second.errors
    process.kill()
    process.communicate()
    (tmp_path / "parts" / f".unfinished-{process.pid}-part-000011.parquet").write_bytes(b"PAR1")
    (tmp_path / "go").touch()
    there = {path: path.stat().st_mtime_ns for path in parts(tmp_path)}
    assert not (tmp_path / "_SUCCESS").exists()
    assert run(tmp_path).returncode == 0  # another engine makes the same parts
    assert content(tmp_path) == undisturbed  # and the stray file is gone
    assert len(there) == 3
    assert all(path.stat().st_mtime_ns == at for path, at in there.items())


def test_a_part_that_fails_is_named_and_set_aside(run, undisturbed, tmp_path):
    (tmp_path / "bad").write_text("57")
    process = run(tmp_path)
    assert process.returncode == 1
    assert process.errors.startswith(
        "FailedPartsError: Expected all 12 parts. Received: 1 of them failed three times"
    )
    assert "part 5: ValueError: row 57 is bad" in process.errors
    (path,) = (tmp_path / "failed").iterdir()
    record = json.loads(path.read_text())
    assert (record["part"], record["first_row"], record["last_row"]) == (5, 50, 59)
    assert record["error"] == "ValueError: row 57 is bad"
    assert len(parts(tmp_path)) == 11
    assert not (tmp_path / "_SUCCESS").exists()
    (tmp_path / "bad").unlink()
    assert run(tmp_path).returncode == 0
    assert content(tmp_path) == undisturbed
    assert not list((tmp_path / "failed").iterdir())


def test_ctrl_c_ends_the_workers_and_the_run_goes_on(run, undisturbed, tmp_path):
    process = run(tmp_path, "processes", workers=2, hold=True, wait=False)
    wait_for(lambda: len(parts(tmp_path)) == 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0

    def are_gone():
        for pid in workers_of(tmp_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                return False
        return True

    wait_for(are_gone)
    assert run(tmp_path).returncode == 0
    assert content(tmp_path) == undisturbed


def test_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    class Full(Job):
        def open(self):
            return lambda start, stop: b"part"

    def write(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tfp_bayes.scale.job.write_atomically", write)
    with pytest.raises(OSError, match="No space left"):
        complete(Full(tmp_path, 3, 1), 0)
    assert not list(tmp_path.rglob("failed/*"))  # the part itself is not the cause


def test_errors_are_those_that_the_command_line_shows():
    assert issubclass(FailedPartsError, ValueError)
    assert issubclass(LockedError, OSError)
