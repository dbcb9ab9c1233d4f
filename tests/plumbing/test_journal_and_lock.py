"""Journals, locks, checkpoints and digests: killed or failed writes, damage and other writers."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfp_bayes
from tfp_bayes._plumbing import checkpoint, journal
from tfp_bayes._plumbing.digest import digest, digest_rows
from tfp_bayes._plumbing.files import remove_unfinished, write_text
from tfp_bayes._plumbing.journal import Journal
from tfp_bayes._plumbing.lock import Lock, LockedError

# The tested modules need no TensorFlow, which importing the package would start in each process.
LIGHT = f"""
import sys, types
package = sys.modules["tfp_bayes"] = types.ModuleType("tfp_bayes")
package.__path__ = [{str(Path(tfp_bayes.__file__).parent)!r}]
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", LIGHT + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


APPENDS = """
import sys
from pathlib import Path
from tfp_bayes._plumbing.journal import Journal
made = Journal(Path(sys.argv[1]))
count = len(made.read())
print(count, flush=True)
while True:
    made.append([{"number": count, "text": "x" * (count % 977)}])
    count += 1
    print(count, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    path, wait = tmp_path / "j", random.Random(0)
    acknowledged = 0
    for _ in range(3):
        process = start(APPENDS, path)
        assert int(process.stdout.readline()) >= acknowledged  # it has started
        time.sleep(0.2 * wait.random())
        process.send_signal(signal.SIGKILL)
        acknowledged = int([line for line in process.stdout if line.endswith("\n")][-1])
        process.wait()
        with path.open("ab") as file:
            file.write(b'{"number": 7, "te')  # an incomplete line, as a slower disk leaves it
        records = Journal(path).read()
        assert len(records) >= acknowledged
        assert [record["number"] for record in records] == list(range(len(records)))


def test_every_flipped_byte_is_noticed(tmp_path):
    made = Journal(tmp_path / "j")
    records = [{"index": 12, "label": 3}, {"index": 13, "label": None}]
    made.append(records)
    content = made.path.read_bytes()
    for position in range(len(content) - 1):  # the last byte ends the last line
        for bit in (1, 64):
            flipped = bytearray(content)
            flipped[position] ^= bit
            made.path.write_bytes(flipped)
            assert all(r in [*records, None] for r in Journal(made.path).read()), position


@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_nothing_counts_on_a_full_disk(moment, tmp_path, monkeypatch):
    made = Journal(tmp_path / "j")
    made.append([{"n": 0}])

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "fsync":
        monkeypatch.setattr(journal.os, "fsync", full)
    else:
        monkeypatch.setattr(journal, "_encode", lambda record: b"x" * 100_000 + b"\n")
        limits = __import__("resource")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
        limits.setrlimit(limits.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"No space left|File too large"):
            made.append([{"n": 1}])
    finally:
        monkeypatch.undo()
        if moment == "write":
            limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    assert Journal(made.path).read() == [{"n": 0}]
    made.append([{"n": 2}])
    assert Journal(made.path).read() == [{"n": 0}, {"n": 2}]


HOLDS = """
import sys
from pathlib import Path
from tfp_bayes._plumbing.lock import Lock
lock = Lock(Path(sys.argv[1]), Path("the run"))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_writes_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    process = start(HOLDS, path)
    process.stdout.readline()
    mine = Lock(path, "the run")
    with pytest.raises(LockedError, match=f"only writer of the run.*process {process.pid} on .*"):
        mine.acquire()
    assert not mine.held
    process.send_signal(signal.SIGKILL)
    process.wait()
    mine.acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    newer = Lock(path, "the run")  # as when a notebook cell is run again
    newer.acquire()
    assert newer.held
    assert not mine.held
    del newer
    other = start(HOLDS, path)
    assert other.stdout.readline() == "held\n"
    other.kill()
    other.wait()


def test_leftovers_of_killed_processes_go_and_others_stay(tmp_path):
    gone = start("", tmp_path)
    gone.wait()
    write_text(tmp_path / "mine.txt", "")
    for name in (f".unfinished-{gone.pid}-a.npz", f".unfinished-{os.getpid()}-b", ".unfinished-x"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".unfinished-{os.getpid()}-b",
        ".unfinished-x",
        "mine.txt",
    ]


def test_a_checkpoint_is_whole_or_refused(tmp_path):
    path = tmp_path / "c.npz"
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([], "int64"), "c": np.float32(2)}
    checkpoint.save(path, checkpoint.State(arrays, {"x": 1}))
    content = path.read_bytes()
    damaged = [content[:length] for length in range(0, len(content), 31)]
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        damaged.append(bytes(flipped))
    refused = 0
    for each in damaged:
        path.write_bytes(each)
        try:
            loaded, record = checkpoint.load(path)
        except ValueError:
            refused += 1
        else:  # the byte does not matter, such as in a date
            assert record["x"] == 1
            assert {k: v.tolist() for k, v in loaded.items()} == {
                k: v.tolist() for k, v in arrays.items()
            }
    assert refused > 0.7 * len(damaged)


def test_digests_tell_data_apart():
    x = np.random.default_rng(0).normal(size=(500, 3))

    class Elsewhere:  # not in memory, so only some rows are read
        def __init__(self, x):
            self.x = x

        def __len__(self):
            return len(self.x)

        def __getitem__(self, indices):
            return self.x[indices]

    for form in (np.asarray, Elsewhere):
        others = [x[::-1].copy(), x + 1e-9, x.astype("float32"), x[:-1], x[:, :2]]
        digests = {digest_rows(form(each)) for each in [x, *others]}
        assert len(digests) == 6
        assert digest_rows(form(x.copy())) in digests
    one_row = x.copy()
    one_row[7] += 1
    assert digest_rows(one_row) != digest_rows(x)
    assert digest_rows(Elsewhere(x[:0])) != digest_rows(Elsewhere(x[:1]))  # no row is read
    nested = {"a": [1, 2.5, None, "b"], "c": x}
    assert digest(nested) == digest({"c": x.copy(), "a": (1, 2.5, None, "b")})
    assert digest([[1], 2]) != digest([1, [2]]) != digest([1, 2])
    assert digest(np.array(["a", None], object)) == digest(np.array(["a", None], object))
    assert digest(1) != digest("1")
    assert digest(1) != digest(1.0)


def test_a_digest_of_a_dataset_covers_its_shapes_and_length():
    data = tf.data.Dataset.from_tensor_slices(np.zeros((6, 2), "float32"))
    again = tf.data.Dataset.from_tensor_slices(np.ones((6, 2), "float32"))
    assert digest(data.batch(2)) == digest(again.batch(2))  # values may come in any order
    others = [data.batch(6), data.take(4).batch(2), data.map(lambda x: x[:1]).batch(2)]
    assert len({digest(each) for each in (data.batch(2), *others)}) == 4
