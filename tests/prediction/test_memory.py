"""The memory of a prediction does not grow with the number of samples."""

from pathlib import Path

from processes import run_python

SCRIPT = Path(__file__).with_name("measure_memory.py")


def peak(num_samples):
    done = run_python(SCRIPT, num_samples)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_a_thousand_samples_take_the_memory_of_ten():
    assert peak(1000) < 1.1 * peak(10)
