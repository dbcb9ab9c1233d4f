"""Tests that every example runs in its short form and stays short."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_python

from tfp_bayes import plots

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


def test_examples_are_numbered_without_gaps():
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path, tmp_path):
    code = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(code) <= 70
    done = run_python(path, "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.glob("runs/*/*"))


def test_gallery_makes_the_pictures_of_every_plot(tmp_path):
    script = ROOT / "docs" / "gallery.py"
    done = run_python(script, "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = sorted(path.name for path in tmp_path.glob("*.png"))
    shown = sorted((ROOT / "docs/images/gallery").glob("*.png"))
    assert made == [path.name for path in shown]
    assert {*plots.__all__} == {*(path.stem for path in shown), "weight_moments"}
    assert all(path.stat().st_size < 100_000 for path in shown)


def test_study_names_its_experiments(tmp_path):
    script = [sys.executable, str(EXAMPLES[0].parent / "study" / "run.py")]
    done = subprocess.run([*script, "figure_0"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown figure_0; there are batch_bald, figure_1_acquisitions" in done.stderr
