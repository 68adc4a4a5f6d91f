"""What commands import: seconds that a user waits for each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = (
    "torch._dynamo torch.onnx._internal.exporter sympy torchvision timm monai sklearn pandas "
    "scipy.stats scipy.integrate scipy.optimize matplotlib.pyplot nilearn SimpleITK highdicom ray "
    "optuna"
)
CODE = """
import sys
import medrd.cli
try:
    medrd.cli.app(["predict", *sys.argv[2:]])
except SystemExit as leave:
    assert not leave.code, leave.code
print("SLOW", *(name for name in sys.argv[1].split() if name in sys.modules))
import medrd.demo  # and training: timm only where a teacher is timm's
assert "timm" not in sys.modules
"""


@pytest.mark.slow
def test_a_prediction_imports_nothing_slow_that_it_does_not_need(
    tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    """A separate interpreter shows it; the model has the embedded teacher."""
    words = [SLOW, str(tiny_run), str(scan), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "SLOW"
