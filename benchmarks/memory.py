"""Peak memory of predict and evaluate with 1, 4 and more volumes, which must not grow.

Each measurement is a separate process on simulated brains. Predict and evaluate process one volume
at a time and read the next one meanwhile. A single volume has no next one, so growth is measured
from 4 volumes on.

    python benchmarks/memory.py --volumes 12
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from medrd.config import make_config
from medrd.phantom.cohort import write_cohort
from medrd.run.table import markdown_table
from medrd.training.train import train

FEW = 4
_CHILD = """
import json, logging, sys
from pathlib import Path
from medrd.config import make_config
verb, run, out, brains, names = sys.argv[1:3] + sys.argv[3:6]
names = json.loads(names)
if verb == "predict":
    from medrd.prediction.predict import predict
    predict(run, [Path(brains) / name for name in names], out)
else:
    from medrd.evaluation.evaluate import evaluate
    raw = json.loads(Path(run, "config.json").read_text(encoding="utf-8"))
    raw["data"]["split"]["test"] = names
    evaluate(run, make_config(raw), out)
from medrd.run.provenance import peak_memory_mib
print(peak_memory_mib())
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        brains = folder / "brains"
        write_cohort(brains, args.volumes + 3, seed=0, workers=2)
        ids = sorted(path.name for path in brains.iterdir() if not path.name.startswith("."))
        raw = {
            "data": {
                "root": str(brains),
                "cache": str(folder / "cache"),
                "split": {"train": ids[:1], "calibration": ids[1:3], "test": ids[3:]},
            },
            "train": {"epochs": 1},
        }
        run = train(make_config(raw), folder / "run")
        (run / "config.json").write_text(json.dumps(raw))
        rows = []
        for verb in ("predict", "evaluate"):
            cells = []
            for count in (1, FEW, args.volumes):
                out = folder / f"{verb}{count}"
                command = [sys.executable, "-c", _CHILD, verb, str(run), str(out), str(brains)]
                done = subprocess.run(
                    [*command, json.dumps(ids[3 : 3 + count])],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                cells.append(float(done.stdout.split()[-1]))
            rows.append([verb, *(f"{cell:.0f}" for cell in cells), f"{cells[2] / cells[1]:.2f}"])
        header = ["verb", "MiB at 1", f"at {FEW}", f"at {args.volumes}", "last two"]
        print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
