"""Every example runs, in its short form, and stays short."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))


def test_examples_are_numbered_without_gaps():
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path, tmp_path):
    code = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(code) <= 70
    done = subprocess.run(
        [sys.executable, str(path), "--smoke"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.glob("runs/*/*"))


def test_study_names_its_experiments(tmp_path):
    script = [sys.executable, str(EXAMPLES[0].parent / "study" / "run.py")]
    done = subprocess.run([*script, "figure_0"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown figure_0; there are batch_bald, figure_1_acquisitions" in done.stderr
