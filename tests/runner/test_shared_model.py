"""A model that travels to another process by its folder and its hash."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from medrd.errors import ModelError
from medrd.run.model_folder import Model, load_model
from medrd.runner.shared_model import SharedModel


def test_it_is_pickled_without_its_weights_and_loaded_anew(quick: Model) -> None:
    shared = SharedModel(quick)
    assert shared.load() is quick
    sent = pickle.dumps(shared)
    assert len(sent) < 1000
    found = pickle.loads(sent).load()
    assert found is not quick
    assert found.hash == quick.hash


def test_a_model_that_is_another_on_a_node_is_an_error(quick: Model, tmp_path: Path) -> None:
    assert quick.folder is not None
    model = load_model(shutil.copytree(quick.folder, tmp_path / "other"))
    sent = pickle.dumps(SharedModel(model))
    path = tmp_path / "other" / "model.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["training"]["seed"] = 99
    path.write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"expected the model \w{12} on every node"):
        pickle.loads(sent).load()
