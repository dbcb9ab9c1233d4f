"""Run the study: all experiments of this folder, or those that you name.

    python examples/study/run.py                 # many hours on two cores; can be continued
    python examples/study/run.py initial_sets    # one experiment
    python examples/study/run.py --quick         # all, with one seed and one round
    python examples/study/run.py --tables        # runs nothing; rewrites tables and curves

Rows, tables and curves go to examples/study/results with the command, the machine and the date.
After an interruption, they cover the completed runs. The quick version only shows that everything
works; its results do not rank methods and stay in runs/study_quick.
"""

import argparse
import datetime
import os
import platform
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(path.stem for path in HERE.glob("*.toml"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="one seed and one round")
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds")
    parser.add_argument("--rounds", type=int, metavar="R", help="largest number of rounds")
    parser.add_argument("--tables", action="store_true", help="rewrite tables and curves")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(names)}")
    if options.tables:
        for name in options.names or names:
            rewrite_table(name)
        return
    seeds, rounds = (1, 1) if options.quick else (options.seeds, options.rounds)
    for name in options.names or names:
        out = Path("runs", "study_quick" if options.quick else "study", name)
        command = ["tfp-bayes", "experiment", f"examples/study/{name}.toml", "--out", str(out)]
        if seeds is not None:
            command += ["--seeds", str(seeds)]
        if rounds is not None:
            own = tomllib.loads((HERE / f"{name}.toml").read_text())["rounds"]
            command += ["--rounds", str(min(rounds, own))]
        shown = shlex.join(command)
        print(f"\n{name}: {shown}", flush=True)
        command[2] = str(HERE / f"{name}.toml")  # works from any folder
        try:
            done = subprocess.run([sys.executable, "-m", "tfp_bayes", *command[1:]])
        finally:
            if not options.quick and (out / "results.csv").exists():
                publish(name, shown, out)
        if done.returncode:
            sys.exit(done.returncode)


def rewrite_table(name: str) -> None:
    """Rewrites an experiment's table and curves from its rows; command, date and machine stay."""
    from tfp_bayes._plumbing.files import write_png
    from tfp_bayes.studies.comparison import plot, read_results, summarize, to_markdown

    path = HERE / "results" / f"{name}.md"
    paragraphs = path.read_text().split("\n\n")
    head, pictures = paragraphs[:3], [each for each in paragraphs if each.startswith("![")]
    histories = read_results(path.with_suffix(".csv"))
    table = to_markdown(summarize(histories)).rstrip("\n")
    path.write_text("\n\n".join([*head, table, *pictures]).rstrip("\n") + "\n")
    if pictures:
        write_png(path.with_suffix(".png"), plot(histories))


def publish(name: str, command: str, out: Path) -> None:
    """Copies rows and curves to the results, and writes the table with its origin."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for source, ending in (("results.csv", "csv"), ("learning_curves.png", "png")):
        (results / f"{name}.{ending}").write_bytes((out / source).read_bytes())
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, TensorFlow {version('tensorflow')}"
    (results / f"{name}.md").write_text(
        f"# {name}\n\n`{command}`\n\n{datetime.date.today()}, {machine}.\n\n"
        f"{(out / 'summary.md').read_text()}\n![learning curves]({name}.png)\n"
    )


if __name__ == "__main__":
    main()
