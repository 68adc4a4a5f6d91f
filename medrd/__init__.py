"""Unsupervised anomaly detection in brain MRI by knowledge distillation.

>>> import medrd
>>> run = medrd.train(config, "run")             # doctest: +SKIP
>>> model = medrd.load("run")                    # doctest: +SKIP
>>> result = model.predict(medrd.read("scan.nii.gz"))  # doctest: +SKIP

A model that was trained on pictures takes ``medrd.read("part.png")`` instead.

The functions import what they need when they are called, so that ``import medrd`` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_WHERE = {
    "Config": "medrd.config",
    "load_config": "medrd.config",
    "MedrdError": "medrd.errors",
    "read": "medrd.workflows.api",
    "plot": "medrd.workflows.api",
    "load": "medrd.workflows.api",
    "train": "medrd.workflows.train",
    "evaluate": "medrd.workflows.evaluate",
    "compare": "medrd.workflows.compare",
    "load_compare": "medrd.config.compare",
    "predict": "medrd.workflows.predict",
    "prepare": "medrd.workflows.prepare",
    "export": "medrd.workflows.export",
    "load_tune": "medrd.config.tune",
    "tune": "medrd.workflows.tune",
    "write_report": "medrd.workflows.report",
}

__all__ = [
    "Config",
    "MedrdError",
    "__version__",
    "compare",
    "evaluate",
    "export",
    "load",
    "load_compare",
    "load_config",
    "load_tune",
    "plot",
    "predict",
    "prepare",
    "read",
    "train",
    "tune",
    "write_report",
]

if TYPE_CHECKING:
    __version__: str
    from medrd.config import Config, load_config
    from medrd.config.compare import load_compare
    from medrd.config.tune import load_tune
    from medrd.errors import MedrdError
    from medrd.workflows.api import load, plot, read
    from medrd.workflows.compare import compare
    from medrd.workflows.evaluate import evaluate
    from medrd.workflows.export import export
    from medrd.workflows.predict import predict
    from medrd.workflows.prepare import prepare
    from medrd.workflows.report import write_report
    from medrd.workflows.train import train
    from medrd.workflows.tune import tune


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("medrd")
    if name not in _WHERE:
        raise AttributeError(f"module 'medrd' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
