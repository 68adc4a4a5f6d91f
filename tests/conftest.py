"""Fixtures that more than one test module uses."""

from __future__ import annotations

import fcntl
import gc
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import ArrayLike

from medrd.images.volume import Volume, volume_from_array
from processes import Processes
from real_data import real_data
from tiny import make_tiny_raw, write_tiny_subject
from warm_ray import WarmWorkers, start_warm

SLOW_MODULES = (
    "training/test_on_ray.py",
    "exporting/test_export.py",
    "tests/test_docs.py",
    "preparation/test_real_heads.py",
    "tuning/test_tune.py",
    "models/test_detectors.py",
    "preparation/test_head.py",
    "preparation/test_prepare.py",
    "runner/test_verbs.py",
    "phantom/test_cohort.py",
    "training/test_train_resumed.py",
    "tests/test_notebooks.py",
    "training/test_worker.py",
    "evaluation/test_evaluate.py",
    "comparison/test_compare.py",
    "runner/test_on_ray.py",
    "preparation/test_programs.py",
    "prediction/test_report.py",
    "evaluation/test_pictures.py",
    "tests/test_demo.py",
    "prediction/test_predict.py",
    "tests/test_fuzz.py",
)
"""Modules that take long, in the order in which they start: the longest first, and those on Ray,
which wait more than they compute, seldom two at a time."""
SLOW_FIXTURES = frozenset(
    {"prompt_ray", "browser", "client", "reader", "medrd", "tiny_run", "picture_run"}
)
"""Fixtures that start Ray, Chromium, a notebook or processes of medrd, run a documentation page, or
train a network."""
NEEDS_PROCESSES = frozenset({"medrd", "tiny_run", "picture_run"})
PROCESSES = pytest.StashKey[Processes]()
WARM_WORKERS = pytest.StashKey[WarmWorkers]()


def pytest_configure() -> None:
    """One token for every Ray of the tests: the first one would otherwise write one into the home
    folder, and Rays that were started without would then wait for their own nodes in vain."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make captured output encodable: xdist sends it as UTF-8, which names of files may not be."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


def pytest_collection_finish() -> None:
    """Leave what the modules have imported out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # nanobind lists what is left at the end as leaks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and start slow modules early, so that all processes end together."""
    order = {name: number for number, name in enumerate(SLOW_MODULES)}

    def place(item: pytest.Item) -> int:
        return order.get("/".join(item.path.parts[-2:]), len(order))

    items.sort(key=place)
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if place(item) < len(order) or not SLOW_FIXTURES.isdisjoint(fixtures):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def brats_root() -> Path:
    """Folder of real BraTS 2018 subjects."""
    return real_data("brats2018")


@dataclass(frozen=True)
class Once:
    """Folders that all processes of ``pytest -n`` use, each made by the first one that asks."""

    root: Path

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of this name, after ``make(folder)``; read only."""
        folder, made = self.root / name, self.root / f"{name}.made"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a failure left
                make(folder)
                made.touch()
        return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    base = tmp_path_factory.getbasetemp()
    return Once(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


# --- A tiny cohort, a model trained on it, and medrd's command line in real processes ---


@pytest.fixture(scope="session")
def tiny_root(once: Once) -> Path:
    """Six tiny subjects in BraTS's layout, read only: 1, 3 to train, 2, 5 to calibrate."""

    def make(root: Path) -> None:
        for i in range(6):
            write_tiny_subject(root / f"tiny_{i}", f"tiny_{i}", seed=i)

    return once("tiny", make)


@pytest.fixture(scope="session")
def tiny_cache(once: Once) -> Path:
    """One cache of prepared slices for all runs on the tiny cohort."""
    return once("tiny_cache", Path.mkdir)


@pytest.fixture
def tiny_raw(tiny_root: Path, tiny_cache: Path) -> dict[str, Any]:
    """A run on the tiny cohort as plain types, to be changed at will."""
    return make_tiny_raw(tiny_root, tiny_cache)


@pytest.fixture
def scan(tiny_root: Path, tmp_path: Path) -> Path:
    """A test subject's FLAIR as a file of its own."""
    (tmp_path / "in").mkdir()
    source = tiny_root / "tiny_0" / "tiny_0_flair.nii.gz"
    return Path(shutil.copy(source, tmp_path / "in" / "scan.nii.gz"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Fork here, where pytest has replaced neither warnings nor logging, and Ray has no threads."""
    fixtures = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not NEEDS_PROCESSES.isdisjoint(fixtures):
        session.stash[PROCESSES] = Processes()
    if "warm_workers" in fixtures:
        session.stash[WARM_WORKERS] = WarmWorkers()


@pytest.fixture(scope="session")
def medrd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    """Run ``medrd`` in a process of its own: ``medrd("predict", run, scan, "--out", out)``."""
    processes = request.session.stash[PROCESSES]
    processes.folder = tmp_path_factory.mktemp("processes")
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def tiny_yaml(tiny_root: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cohort's config as a file."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(make_tiny_raw(tiny_root, tiny_cache)))
    return path


@pytest.fixture(scope="session")
def tiny_run(once: Once, tiny_yaml: Path, request: pytest.FixtureRequest) -> Path:
    """RD4AD with the embedded teacher, trained for two epochs without a break; read only."""
    return once("tiny_run", lambda out: train_in_a_process(request, tiny_yaml, out))


def train_in_a_process(request: pytest.FixtureRequest, config: Path, out: Path) -> None:
    """Start the processes only where there is something to train."""
    done = request.getfixturevalue("medrd")("train", config, "--out", out)
    assert done.code == 0, done.stderr


@pytest.fixture(scope="module")
def prompt_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray's processes stand back behind nobody, and need not compile torch and MONAI anew each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture(scope="session")
def warm_server(request: pytest.FixtureRequest) -> Iterator[WarmWorkers]:
    """Gives processes to ``ray_worker.py``."""
    server = request.session.stash[WARM_WORKERS]
    yield server
    server.close()


@pytest.fixture(scope="module")
def warm_workers(prompt_ray: None, warm_server: WarmWorkers) -> Iterator[str]:
    """A Ray that is started here has workers that need not import torch; the server's address."""
    with pytest.MonkeyPatch.context() as patch:
        start_warm(patch, warm_server.address)
        yield warm_server.address


@pytest.fixture(scope="session")
def quick(tiny_root: Path, tiny_cache: Path, once: Once) -> Any:
    """A Model: the calibrated intensity baseline, for which there is nothing to wait."""
    from medrd.config import make_config
    from medrd.run.model_folder import load_model
    from medrd.training.train import train

    raw = make_tiny_raw(tiny_root, tiny_cache) | {
        "recipe": {"size": 64, "min_brain_mm2": 2000, "normalise": "rank"},
        "model": {"name": "intensity"},
        "scoring": {"sigma_px": 2},
    }
    del raw["train"]
    return load_model(once("quick", lambda out: train(make_config(raw), out)))


@pytest.fixture
def search_raw(tiny_raw: dict[str, Any]) -> dict[str, Any]:
    """A small search on the tiny cohort as plain types, to be changed at will."""
    from searches import make_search_raw

    return make_search_raw(tiny_raw)


@pytest.fixture(scope="session")
def finished_search(tiny_root: Path, tiny_cache: Path, once: Once) -> Path:
    """The folder of that search with one finished trial, at POINT; read only."""
    from searches import make_search_raw, run_point

    raw = make_search_raw(make_tiny_raw(tiny_root, tiny_cache))
    return once("finished_search", lambda out: run_point(raw, out))


SPACED_2_MM = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="session")
def make_brain() -> Callable[..., Volume]:
    """A noisy ellipsoid in a background of 0: ``make_brain(affine, seed=…)``, (30, 26, 20)."""

    def make(affine: ArrayLike = SPACED_2_MM, *, seed: int = 0) -> Volume:
        shape = (30, 26, 20)
        place = (np.indices(shape).T - (14.2, 13.1, 9.3)) / (11.5, 10.0, 8.0)
        brain = ((place**2).sum(axis=-1) < 1).T
        texture = np.random.default_rng(seed).normal(300, 60, shape).clip(50)
        return volume_from_array(np.where(brain, texture, 0), affine)

    return make


# --- Pictures: given bytes, a tiny category of textures, and a model trained on it ---


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Give content a file of its own. Names say nothing: a picture is what its bytes are."""
    count = iter(range(99))

    def save(content: bytes) -> Path:
        path = tmp_path / f"picture-{next(count)}.dat"
        path.write_bytes(content)
        return path

    return save


@pytest.fixture(scope="session")
def texture_root(once: Once) -> Path:
    """Two categories in MVTec's layout, read only: 10 to train on, 4 good and 8 bad to test."""
    from medrd.phantom.textures import write_texture_set

    return once(
        "textures",
        lambda root: write_texture_set(root, train=10, test_good=4, test_bad=8, size=96),
    )


@pytest.fixture
def picture_raw(texture_root: Path, tiny_cache: Path) -> dict[str, Any]:
    """A run on the category weave as plain types, to be changed at will."""
    return make_picture_raw(texture_root, tiny_cache)


def make_picture_raw(root: Path, cache: Path) -> dict[str, Any]:
    return {
        "data": {
            "kind": "pictures",
            "root": str(root),
            "cache": str(cache),
            "category": "weave",
            "calibration": 2,
        },
        "recipe": {"size": 64},
        "train": {"epochs": 2, "batch_size": 4, "device": "cpu", "precision": "fp32"},
    }


@pytest.fixture(scope="session")
def picture_yaml(
    texture_root: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The category weave's config as a file."""
    path = tmp_path_factory.mktemp("picture_config") / "weave.yaml"
    path.write_text(yaml.safe_dump(make_picture_raw(texture_root, tiny_cache)))
    return path


@pytest.fixture(scope="session")
def picture_run(once: Once, picture_yaml: Path, request: pytest.FixtureRequest) -> Path:
    """RD4AD trained for two epochs on the category weave; read only."""
    return once("picture_run", lambda out: train_in_a_process(request, picture_yaml, out))
