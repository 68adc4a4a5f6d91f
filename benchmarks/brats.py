"""Accuracy on BraTS under the protocol, over several seeds with their own splits by subject.

For each seed, this runs ``medrd train`` and ``medrd evaluate`` with the config. It prints mean
± standard deviation of the model and of the intensity baseline on the same subjects. Finished
runs are kept, so a stopped benchmark can be continued.

    python benchmarks/brats.py configs/brats/rd4ad.yaml --data /path/to/brats --out results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tables import spread_table

from medrd.config import load_config
from medrd.evaluation.evaluate import evaluate
from medrd.training.train import train


def main() -> None:
    """Run the seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    args = parser.parse_args()

    results: dict[str, list[dict[str, float | None]]] = {}
    for seed in args.seeds:
        overrides = [f"data.root={args.data}", f"seed={seed}", *args.overrides]
        config = load_config(args.config, overrides)
        run = train(config, args.out / f"seed{seed}", resume=True)
        metrics = args.out / f"seed{seed}-evaluation" / "metrics.json"
        if not metrics.is_file():
            evaluate(run, config, metrics.parent)
        content = json.loads(metrics.read_text(encoding="utf-8"))
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        protocol = content["protocol"]
        print(
            f"seed {seed}: {record['slices']} healthy slices, {record['epochs']} epochs, "
            f"{record['training_seconds']:.0f} s; test: {', '.join(protocol['subjects'])}; "
            f"calibration: threshold holds {protocol['calibration']['held_fpr']:.4f} on "
            f"{protocol['calibration']['scans']} scan(s)"
        )
        results.setdefault(protocol["model"], []).append(content)
        for name, row in content.get("baseline", {}).items():
            results.setdefault(name, []).append(row)
    print()
    print(spread_table(results))


if __name__ == "__main__":
    main()
