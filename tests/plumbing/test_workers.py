"""Workers: kills, exceptions, and the end of the main process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfp_bayes._plumbing.workers import check_engine

SCRIPT = Path(__file__).with_name("worker_runs.py")


@contextlib.contextmanager
def busy_workers(folder, num_keys):
    """Start runs, wait until both workers are busy, and yield the main process."""
    with (folder / "output").open("wb") as file:
        parent = subprocess.Popen(
            [sys.executable, SCRIPT, folder, "wait_forever", str(num_keys)],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: len(workers_of(folder)) == 2)
        yield parent
    finally:
        parent.kill()
        parent.wait()
        for process in workers_of(folder).values():  # that the code under test failed to end
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def workers_of(folder):
    """Process ids by the number of the run that the process began."""
    return {int(path.name[4:]): int(path.read_text()) for path in folder.glob("run-?")}


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A process that nobody waits for remains as a zombie.
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent(stop, tmp_path):
    with busy_workers(tmp_path, 4) as parent:
        workers = workers_of(tmp_path)
        parent.send_signal(stop)
        parent.wait(60)
        wait_for(lambda: not any(map(is_alive, workers.values())))
    assert workers_of(tmp_path) == workers  # no further run was started


def kill_worker_of_first_run(folder, parent):
    killed = workers_of(folder)[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: workers_of(folder)[0] != killed or parent.poll() is not None)


def test_a_killed_worker_is_replaced_alone(tmp_path):
    with busy_workers(tmp_path, 2) as parent:
        other = workers_of(tmp_path)[1]
        for _ in range(2):
            kill_worker_of_first_run(tmp_path, parent)
        assert workers_of(tmp_path)[1] == other
        (tmp_path / "go").touch()
        assert parent.wait(60) == 0
    assert sorted((tmp_path / "output").read_text().split()) == ["0", "1"]


def test_three_kills_in_one_run_are_one_sentence(tmp_path):
    with busy_workers(tmp_path, 2) as parent:
        other = workers_of(tmp_path)[1]
        for _ in range(3):
            kill_worker_of_first_run(tmp_path, parent)
        assert parent.wait(60) == 1
        output = (tmp_path / "output").read_text()
        assert output.startswith(
            "ChildProcessError: Expected workers that complete their runs. Received: 3 that died "
            "in the same run, 0 (killed by signal 9). Hint: 2 workers may need"
        )
        assert output.count("\n") == 1
        wait_for(lambda: not is_alive(other))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("fail", "FileNotFoundError: [Errno 2] no such pool: 'pool.npy'"),
        ("fail_strangely", "RuntimeError: UnpicklableError: a and b"),
        ("Broken", "ZeroDivisionError: division by zero"),
        (
            "cannot_start",
            "ChildProcessError: Expected workers that start. Received: 3 that died at their start "
            "(ended with exit code 3)",
        ),
        ("fork_and_die", "ChildProcessError: Expected workers that complete their runs. Received"),
    ],
)
def test_exceptions_arrive(run, expected, tmp_path):
    with (tmp_path / "output").open("wb") as file:  # not a pipe, which a fork would keep open
        process = subprocess.Popen([sys.executable, SCRIPT, tmp_path, run, "2"], stdout=file)
    try:
        assert process.wait(60) == 1
    finally:
        process.kill()
        (tmp_path / "go").touch()
    assert (tmp_path / "output").read_text().startswith(expected)


def test_an_exit_in_a_run_is_an_exit(tmp_path):
    assert subprocess.run([sys.executable, SCRIPT, tmp_path, "leave", "2"]).returncode == 7


def test_unknown_engines_and_useless_arguments():
    with pytest.raises(ValueError, match="for `engine`"):
        check_engine("dask", 1, 0)
    with pytest.raises(ValueError, match="Hint: use engine='processes'"):
        check_engine("local", 2, 0)
    with pytest.raises(ValueError, match="with engine='ray'"):
        check_engine("processes", 2, 0.5)
