"""Run the Python blocks of README and site on small data, page by page, and checks links."""

import re
from pathlib import Path

import pytest

import tfp_bayes

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/guides").glob("*.md")),
]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
_BLOCK = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)")


def blocks(page):
    return _BLOCK.findall(page.read_text())


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def little_data(tmp_path, monkeypatch):
    """Run the test in a temporary folder with small datasets and the examples folder."""
    load = tfp_bayes.datasets.load

    def little(name, *args, **kwargs):
        data = load(name, *args, **kwargs)
        if len(data.x_train) <= 300:  # written by the page itself
            return data
        return data._replace(
            x_train=data.x_train[:300],
            y_train=data.y_train[:300],
            x_test=data.x_test[:50],
            y_test=data.y_test[:50],
        )

    monkeypatch.setattr(tfp_bayes.datasets, "load", little)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_blocks_run(page, little_data):
    names = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("ending", ["&& tfp-bayes active-learning", "&& pytest"])
def test_each_command_is_one_line(ending):
    assert [line for line in README.read_text().splitlines() if line.endswith(ending)]


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=name_of)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(page.read_text()):
        path = page.parent / target
        if path.suffix == ".ipynb":  # the site is built from the example
            path = ROOT / "examples" / f"{path.stem}.py"
        assert target.startswith("https://") or path.exists(), target


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_examples_are_notebooks_with_a_small_picture(path):
    assert path.read_text().startswith("# %% [markdown]\n# # ")
    picture = ROOT / "docs" / "images" / f"{path.stem}.png"
    assert f"](../docs/images/{picture.name})" in path.read_text()
    assert picture.stat().st_size < 100_000
