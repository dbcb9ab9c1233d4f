"""`tfp-bayes active-learning --data photos/`: a folder without labels, and a person who labels."""

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
    """Adds the options of images of one's own to the command's parser.

    Args:
        parser: Of `active-learning`.
        at_least: From a least and a most integer to what reads one between.
    """
    add = parser.add_argument_group("your own images").add_argument
    add("--data", type=Path, metavar="DIR", help="folder of images; with --classes, to be labelled")
    add("--classes", metavar="A,B,...", help="names of the classes, where images have no labels")
    add("--image-size", type=at_least(8), metavar="N", help="resize images to N x N pixels")
    add("--skip-bad", action="store_true", help="leave out files that cannot be read, and say so")
    add("--port", type=at_least(1, 65535), default=8765, metavar="N", help="of the page (8765)")


def label_pool(options: argparse.Namespace, given: dict[str, Any]) -> int:
    """Serves the page until it is stopped, and returns the exit status.

    Args:
        options: Of the command.
        given: The fields of `RunConfig` among them.
    """
    if options.classes is None:
        raise ValueError(
            f"Expected --classes with --data={options.data}, whose images have no labels. "
            "Received: none. Hint: --classes cat,dog; the page has a button for each."
        )
    names = _class_names(options.classes.split(","))
    seed = given.get("seed", RunConfig.seed)
    folder = options.out or Path("runs", f"{options.data.resolve().name}-seed{seed}")
    config = _continued(folder, given) if options.resume else complete(given)
    if (folder / "config.json").exists():
        raise ValueError(
            f"Expected a folder without another run for --out. Received: --out={folder}. "
            "Hint: `tfp-bayes label --run` continues a run on labelled images."
        )
    if (folder / POOL).exists() != options.resume:
        raise ValueError(
            f"Expected {'a run to resume' if options.resume else 'a folder without a run'} in "
            f"--out={folder}. Received: {'none' if options.resume else 'one'}. Hint: "
            + ("leave --resume out." if options.resume else "add --resume to continue it.")
        )
    lock = lock_of(folder / CHECKPOINT)
    images, data = _load(options)
    lock.acquire()  # and says if another process writes there
    start_tensorflow()
    from tfp_bayes.studies.pools import PoolRun

    run = PoolRun(folder, config, images, data, names)
    _ = run.model  # an error now, and not when the first images are labelled
    session = _session(run, run.open())
    if session.is_complete:
        session.start()
    return serve(session, options.port)


def _load(options: argparse.Namespace) -> tuple[ImageFiles, Dataset]:
    """Returns the pool in its files, and the same as a data set."""
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
        if learner.history:  # a killed process may not have come to it
            run.write(learner)
        return Session(learner, run.class_names, run.write, picture)

    first = run.first_images()
    return StartSession(first, run.class_names, run.folder / START, make_session, picture, answers)


def _picture(images: ImageFiles, index: int) -> np.ndarray | None:
    """Returns an image as a person sees it best: with all its pixels, up to `SIDE`."""
    from tfp_bayes._plumbing.images import SIDE
    from tfp_bayes.datasets.image_files import decode, look

    if not 0 <= index < len(images):
        return None
    path = images.paths[index]
    seen = look(path)
    scale = min(1.0, SIDE / max(seen.height, seen.width))
    size = max(round(seen.height * scale), 1), max(round(seen.width * scale), 1)
    return decode(path, size, 3)


def serve(session: Session | StartSession, port: int) -> int:
    """Serves the page for labelling until Ctrl-C, and returns the exit status."""
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
            # TensorFlow aborts an interpreter that ends around a running thread. Every answer is
            # on the disk, and what is half trained is trained again.
            print("Stopped while the model trained; every label is saved.", file=sys.stderr)
            sys.stderr.flush()
            os._exit(130)
    return 0


def has_no_labels(options: argparse.Namespace) -> bool:
    """Tells whether the images of --data are to be labelled; others are a data set like any."""
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
    """Returns what `datasets.load` takes for --data, images with labels.

    Raises:
        ValueError: If something else was given that would not count.
    """
    for name in ("dataset", "image_size", "skip_bad"):
        if getattr(options, name, None):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"Expected no {flag} with --data={options.data}, whose images have labels. "
                f"Received: {flag}={getattr(options, name)}. Hint: the files are taken as they "
                "are, so change them, or add --classes to label them anew."
            )
    return str(options.data.expanduser().resolve())


def _continued(folder: Path, given: dict[str, Any]) -> RunConfig:
    """Returns the configuration of a run, of which what is not given is as when it began."""
    try:
        known = json.loads((folder / POOL).read_text())
    except FileNotFoundError:
        return complete(given)
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    return RunConfig(**{**{k: v for k, v in known.items() if k in fields}, **given})


def _class_names(class_names: list[str]) -> tuple[str, ...]:
    """Returns different names of at least two classes, or raises ValueError."""
    names = tuple(name.strip() for name in class_names)
    if len(set(names)) < max(len(names), 2) or "" in names:
        raise ValueError(
            f"Expected at least two different names for --classes. Received: {list(names)}. "
            "Hint: --classes cat,dog."
        )
    return names
