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
    "read": "medrd.prediction.api",
    "plot": "medrd.prediction.api",
    "load": "medrd.prediction.api",
    "train": "medrd.training.train",
    "evaluate": "medrd.evaluation.evaluate",
    "compare": "medrd.comparison.compare",
    "load_compare": "medrd.comparison.config",
    "predict": "medrd.prediction.predict",
    "prepare": "medrd.preparation.prepare",
    "export": "medrd.exporting.export",
    "load_tune": "medrd.tuning.config",
    "tune": "medrd.tuning.tune",
    "write_report": "medrd.report",
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
    from medrd.comparison.compare import compare
    from medrd.comparison.config import load_compare
    from medrd.config import Config, load_config
    from medrd.errors import MedrdError
    from medrd.evaluation.evaluate import evaluate
    from medrd.exporting.export import export
    from medrd.prediction.api import load, plot, read
    from medrd.prediction.predict import predict
    from medrd.preparation.prepare import prepare
    from medrd.report import write_report
    from medrd.training.train import train
    from medrd.tuning.config import load_tune
    from medrd.tuning.tune import tune


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
