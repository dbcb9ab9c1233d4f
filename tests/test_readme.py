"""The README's Python snippets run, in order, on a little data."""

import re
from pathlib import Path

import pytest

import tfp_bayes

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_snippets(tmp_path, monkeypatch):
    load = tfp_bayes.datasets.load

    def little(name):
        data = load(name)
        return data._replace(
            x_train=data.x_train[:300],
            y_train=data.y_train[:300],
            x_test=data.x_test[:50],
            y_test=data.y_test[:50],
        )

    monkeypatch.setattr(tfp_bayes.datasets, "load", little)
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, str(README), "exec"), names)
    assert names["p"].mean.shape == (50, 10)
    assert (tmp_path / "cnn.keras").exists()
    assert (tmp_path / "saved_models" / "cnn").is_dir()
    assert len(names["history"]) == 3


@pytest.mark.parametrize("ending", ["&& tfp-bayes active-learning", "&& pytest"])
def test_each_command_is_one_line(ending):
    assert [line for line in README.read_text().splitlines() if line.endswith(ending)]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("https://") or (README.parent / target).exists(), target
