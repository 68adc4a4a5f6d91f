"""A model as it is sent to other processes: its folder and its hash."""

from __future__ import annotations

from pathlib import Path

from medrd.errors import ModelError
from medrd.run.model_folder import Model, load_model
from medrd.runner.cluster import EVERYWHERE


class SharedModel:
    """A loaded model that is pickled without its weights; another process loads it anew."""

    def __init__(self, model: Model) -> None:
        self._model: Model | None = model
        self._folder, self._hash = model.folder, model.hash

    def __getstate__(self) -> dict[str, Path | str | None]:
        return self.__dict__ | {"_model": None}

    def load(self) -> Model:
        """The model, read from its folder if this process does not have it yet.

        Raises
        ------
        ModelError
            The folder does not hold that model here.
        """
        if self._model is None:
            assert self._folder is not None  # only a loaded model is sent to other processes
            found = load_model(self._folder)
            if found.hash != self._hash:
                raise ModelError(
                    self._folder,
                    expected=f"the model {self._hash[:12]} on every node",
                    found=f"the model {found.hash[:12]} on one of them",
                    remedy=EVERYWHERE,
                )
            self._model = found
        return self._model
