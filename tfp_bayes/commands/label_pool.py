"""`tfp-bayes active-learning --data photos/`: a person labels a folder of images."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes._plumbing.quiet import start_tensorflow
from tfp_bayes.studies.configuration import CHECKPOINT, POOL, RunConfig, complete

if TYPE_CHECKING:
    import numpy as np

    from tfp_bayes.datasets import Dataset, ImageFiles
    from tfp_bayes.label import Session, StartSession
    from tfp_bayes.studies.pools import PoolRun


def add_pool_options(parser: argparse.ArgumentParser, at_least) -> None:
    """Add the options for the user's own images to a parser.

    Args:
        parser: Parser of `active-learning`.
        at_least: Function of a smallest and a largest integer that returns a parser of integers
            in that range.
    """
    add = parser.add_argument_group("your own images").add_argument
    add("--data", type=Path, metavar="DIR", help="folder of images; with --classes, to be labeled")
    add("--classes", metavar="A,B,...", help="names of the classes, for images without labels")
    add("--image-size", type=at_least(8), metavar="N", help="resize images to N x N pixels")
    add("--skip-bad", action="store_true", help="leave out unreadable files, with a warning")
    add("--port", type=at_least(1, 65535), default=8765, metavar="N", help="page's port (8765)")


def label_pool(options: argparse.Namespace, given: dict[str, Any]) -> int:
    """Serve the labeling page until it is stopped, and return the exit status.

    Args:
        options: Options of the command.
        given: The given options that are fields of `RunConfig`.
    """
    if options.classes is None:
        raise ValueError(
            f"Expected --classes with --data={options.data}, whose images have no labels. "
            "Received: no --classes. Hint: add --classes cat,dog; the page has a button for each."
        )
    names = _class_names(options.classes.split(","))
    seed = given.get("seed", RunConfig.seed)
    folder = options.out or Path("runs", f"{options.data.resolve().name}-seed{seed}")
    config = _continued(folder, given) if options.resume else complete(given)
    if (folder / "config.json").exists():
        raise ValueError(
            f"Expected a folder without another run for --out. Received: --out={folder}. "
            "Hint: `tfp-bayes label --run` continues a run on labeled images."
        )
    if (folder / POOL).exists() != options.resume:
        raise ValueError(
            f"Expected {'a run to resume' if options.resume else 'a folder without a run'} in "
            f"--out={folder}. Received: {'no run' if options.resume else 'a run'}. Hint: "
            + ("omit --resume." if options.resume else "add --resume to continue it.")
        )
    lock = lock_of(folder / CHECKPOINT)
    images, data = _load(options)
    lock.acquire()  # raises an error now if another process is writing there
    start_tensorflow()
    from tfp_bayes.studies.pools import PoolRun

    run = PoolRun(folder, config, images, data, names)
    _ = run.model  # raises errors now rather than after the first images are labeled
    session = _session(run, run.open())
    if session.is_complete:
        session.start()
    return serve(session, options.port)


def _load(options: argparse.Namespace) -> tuple[ImageFiles, Dataset]:
    """Return the pool as image files, and as a data set in memory."""
    from tfp_bayes.datasets import load
    from tfp_bayes.datasets.folder import in_memory

    size = None if options.image_size is None else (options.image_size,) * 2
    data = load(
        options.data.expanduser(),
        image_size=size,
        labels=False,
        skip_bad=options.skip_bad,
        lazy=True,
    )
    images: ImageFiles = data.x_train  # type: ignore[assignment]
    return images, data._replace(x_train=in_memory(images))


def _session(run: PoolRun, answers: dict[int, int | None]) -> StartSession:
    from tfp_bayes.label import Session, StartSession
    from tfp_bayes.studies.pools import START

    picture = functools.partial(_picture, run.images)

    def make_session(indices: np.ndarray, labels: np.ndarray) -> Session:
        learner = run.make_learner(indices, labels)
        if learner.history:  # a killed process may not have written its files
            run.write(learner)
        return Session(learner, run.class_names, run.write, picture)

    first = run.first_images()
    return StartSession(first, run.class_names, run.folder / START, make_session, picture, answers)


def _picture(images: ImageFiles, index: int) -> np.ndarray | None:
    """Return an image for display: at full resolution, with a longer side of at most `SIDE`."""
    from tfp_bayes._plumbing.images import SIDE
    from tfp_bayes.datasets.image_files import decode, read_header

    if not 0 <= index < len(images):
        return None
    path = images.paths[index]
    seen = read_header(path)
    scale = min(1.0, SIDE / max(seen.height, seen.width))
    size = max(round(seen.height * scale), 1), max(round(seen.width * scale), 1)
    return decode(path, size, 3)


def serve(session: Session | StartSession, port: int) -> int:
    """Serve the labeling page until Ctrl-C, and return the exit status."""
    import logging

    from tfp_bayes.label.server import HOST, make_app

    app = make_app(session)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    address = f"http://{HOST}:{port}/?token={app.config['TOKEN']}"
    print(f"Label at {address}\nEach label is saved at once; stop with Ctrl-C.", flush=True)
    try:
        app.run(HOST, port, threaded=True)  # until Ctrl-C
    finally:
        if session.busy:
            # TensorFlow aborts if the interpreter exits while a thread runs. Every answer is on
            # disk, and the next start repeats the unfinished training.
            print("Stopped during training; every label is saved.", file=sys.stderr)
            sys.stderr.flush()
            os._exit(130)
    return 0


def has_no_labels(options: argparse.Namespace) -> bool:
    """Return whether the images of --data need labels. Otherwise, they are an ordinary data set."""
    from tfp_bayes.datasets.folder import find
    from tfp_bayes.datasets.options import FileOptions

    if not options.data.expanduser().is_dir():
        raise ValueError(
            f"Expected a folder of images for --data. Received: --data={options.data}. "
            "Hint: paths are relative to the current folder."
        )
    if options.classes is not None:
        return True
    return find(options.data.expanduser(), FileOptions(skip_bad=options.skip_bad)).labels is None


def labelled_folder(options: argparse.Namespace) -> str:
    """Return the name of --data for `datasets.load`, for images with labels.

    Raises:
        ValueError: If another option was given that would have no effect.
    """
    for name in ("dataset", "image_size", "skip_bad"):
        if getattr(options, name, None):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"Expected no {flag} with --data={options.data}, whose images have labels. "
                f"Received: {flag}={getattr(options, name)}. Hint: the files are used as they "
                "are, so change the files, or add --classes to label them again."
            )
    return str(options.data.expanduser().resolve())


def _continued(folder: Path, given: dict[str, Any]) -> RunConfig:
    """Return the configuration of a resumed run. Options that are not given keep their values."""
    try:
        known = json.loads((folder / POOL).read_text())
    except FileNotFoundError:
        return complete(given)
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    return RunConfig(**{**{k: v for k, v in known.items() if k in fields}, **given})


def _class_names(class_names: list[str]) -> tuple[str, ...]:
    """Return the names of at least two classes. Raise ValueError if they are not distinct."""
    names = tuple(name.strip() for name in class_names)
    if len(set(names)) < max(len(names), 2) or "" in names:
        raise ValueError(
            f"Expected at least two different names for --classes. Received: {list(names)}. "
            "Hint: write --classes cat,dog."
        )
    return names
