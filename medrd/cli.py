"""The command line: each command parses its options, calls one subpackage and prints the result.

Heavy imports happen inside the commands, so that ``medrd --help`` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medrd import options
from medrd.app import app, end_incomplete, main
from medrd.prediction.options import (
    Device,
    Frame,
    KeepNames,
    OneShard,
    Overwrite,
    PredictOptions,
    Series,
)
from medrd.preparation.options import PrepareOptions

__all__ = ["app", "main"]

_MODEL_FIRST = "[OPTIONS] [MODEL]"
"""Usage of the commands that take an optional model before their other arguments."""


@app.command()
def demo(
    out: Annotated[
        Path | None, options.out("Output folder. Default: demo, or demo-train with --train.")
    ] = None,
    train: Annotated[
        bool,
        typer.Option("--train", help="Instead, train and evaluate a model on simulated brains."),
    ] = False,
    subjects: Annotated[
        int, typer.Option(min=4, help="With --train: number of simulated brains.")
    ] = 8,
    epochs: Annotated[
        int, typer.Option(min=1, help="With --train: number of training epochs.")
    ] = 12,
) -> None:
    """Simulate a patient and find its tumour with the built-in model. Needs no data."""
    from medrd.demo import run_demo, train_demo

    if train:
        typer.echo(train_demo(out or Path("demo-train"), subjects=subjects, epochs=epochs))
    else:
        typer.echo(run_demo(out or Path("demo")))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/ has examples.")],
    out: Annotated[Path, options.out("Run folder to create.")],
    set_: options.Set = None,
    resume: options.Resume = False,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of Ray processes that share each batch. On CPUs, each process uses its "
            "own BatchNorm statistics.",
        ),
    ] = 1,
    cpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU cores per Ray process. If given, Ray is used even for one process. Default: "
            "an equal share of this machine's cores; 1 on a cluster.",
        ),
    ] = None,
    address: options.Address = None,
) -> None:
    """Train a model on healthy slices and calibrate its thresholds."""
    from medrd.config import load_config

    loaded = load_config(config, set_ or [])
    if options.on_ray(workers > 1, address, cpus):
        from medrd.training.on_ray import train_on_ray

        run = train_on_ray(loaded, out, workers=workers, cpus=cpus, address=address, resume=resume)
    else:
        from medrd.training.train import train as train_here

        run = train_here(loaded, out, resume=resume)
    typer.echo(run)
    if (out / "errors.json").exists():
        end_incomplete(f"some inputs could not be used: see {out / 'errors.json'}")


@app.command(options_metavar=_MODEL_FIRST)
@options.spread
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN",
            help="Scans (NIfTI, MGH, MetaImage, NRRD), BraTS subject folders, BIDS datasets, DICOM "
            "series, or folders of these; for a model of pictures, pictures or folders of them. "
            "MODEL is a run folder or the model/ folder inside it. Without it, the built-in "
            "model for FLAIR scans is used.",
        ),
    ],
    out: Annotated[Path, options.out("Folder for maps, masks, JSON and overlays.")],
    chosen: PredictOptions,
    where: options.RayOptions,
) -> None:
    """Write an anomaly map for each scan or picture, on its own grid."""
    from medrd.prediction.predict import predict_inputs

    model, scans = options.split_model(inputs)
    result = predict_inputs(model, scans, out, chosen, runner=where.runner())
    for path in result.done:
        typer.echo(path)
    if result.page:
        typer.echo(result.page.path)
    done, skipped, failed = len(result.done), len(result.skipped), len(result.errors)
    others = f", {len(result.left_out)} left out" if result.left_out else ""
    typer.echo(f"{done} predicted, {skipped} already there, {failed} failed{others}", err=True)
    if result.errors or (result.page and result.page.errors):
        end_incomplete(f"see {out / 'errors.json'}")


@app.command("to-dicom")
def to_dicom(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="Map that medrd predict wrote.")],
    mask: Annotated[
        Path | None,
        typer.Argument(help="The map's mask; without it, only the Parametric Map is written."),
    ] = None,
    *,
    series: Annotated[Path, typer.Option(help="Folder of the DICOM series, or one of its files.")],
    out: Annotated[Path, options.out("Folder for the DICOM objects.")],
    keep_names: KeepNames = False,
) -> None:
    """Write a map as DICOM: a Segmentation, a Parametric Map and a report."""
    from medrd.prediction.to_dicom import to_dicom as run

    for path in run(map_, mask, series=series, out=out, keep_names=keep_names):
        typer.echo(path)


@app.command()
@options.spread
def prepare(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="Raw heads: NIfTI files, BIDS datasets, DICOM series, or folders of these."
        ),
    ],
    out: Annotated[
        Path, options.out("Output folder, with one subfolder per subject in the BraTS layout.")
    ],
    modality: Annotated[
        str | None,
        typer.Option(help="flair, t1, t1ce or t2, for scans whose names do not give it."),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="T1-weighted template (NIfTI). Default: the bundled MNI152.")
    ] = None,
    template_mask: Annotated[
        Path | None,
        typer.Option(
            help="Brain mask of the template. Without it, the template must be skull-stripped."
        ),
    ] = None,
    *,
    chosen: PrepareOptions,
    overwrite: Overwrite = False,
    frame: Frame = None,
    series: Series = None,
) -> None:
    """Prepare raw heads: correct the bias field, register, resample to 1 mm, remove the skull."""
    from medrd.preparation.prepare import prepare as run

    result = run(
        scans,
        out,
        template=template,
        template_mask=template_mask,
        options=chosen,
        modality=modality,
        frame=frame,
        series=series,
        overwrite=overwrite,
    )
    for path in result.done:
        typer.echo(path.parent)
    if result.page:
        typer.echo(result.page)
    done, skipped, failed = len(result.done), len(result.skipped), len(result.errors)
    typer.echo(f"{done} prepared, {skipped} already there, {failed} failed", err=True)
    if result.errors:
        end_incomplete(f"see {out / 'errors.json'}")


@app.command(options_metavar=_MODEL_FIRST)
@options.spread
def evaluate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG",
            help="YAML file that names the data and the split. MODEL is a run folder or the model/ "
            "folder inside it. Without it, the built-in model is evaluated, on all subjects if "
            "CONFIG has no split.",
        ),
    ],
    out: Annotated[Path, options.out("Output folder for metrics.json.")],
    set_: options.Set = None,
    device: Device = "auto",
    *,
    where: options.RayOptions,
    shard: OneShard = None,
    baseline: Annotated[bool, typer.Option(help="Evaluate the intensity baseline too.")] = True,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Also write report.html: curves, and the best and worst cases."
        ),
    ] = False,
) -> None:
    """Evaluate a model on test subjects that it has never seen."""
    from medrd.config import load_config

    *models, config = files
    if len(models) > 1:
        raise typer.BadParameter("expected [MODEL] CONFIG: at most one model, then one config")
    options.refuse_void_keys(set_ or [], sections=("data", "seed"))
    loaded = load_config(config, set_ or [])
    from medrd.evaluation.evaluate import evaluate as run
    from medrd.run.table import metrics_table

    path = run(
        models[0] if models else None,
        loaded,
        out,
        device=device,
        baseline=baseline,
        report=report,
        runner=where.runner(),
        shard=shard,
    )
    if not path.is_file():  # other shards are not done yet
        return
    typer.echo(metrics_table(path))
    typer.echo(path)
    if (out / "errors.json").exists():
        end_incomplete(f"some subjects failed: see {out / 'errors.json'}")


@app.command()
@options.spread
def compare(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/compare/ has examples.")],
    out: Annotated[
        Path, options.out("Output folder; an unfinished comparison in it is continued.")
    ],
    set_: options.Set = None,
    *,
    where: options.RayOptions,
) -> None:
    """Train and evaluate every model on every data set with every seed; write one table."""
    from medrd.comparison.config import load_compare

    loaded = load_compare(config, set_ or [])
    from medrd.comparison.compare import compare as run

    comparison = run(loaded, out, runner=where.runner())
    typer.echo((out / "results.md").read_text(encoding="utf-8"))
    typer.echo(out / "results.md")
    if any(cell.error or not cell.complete for cell in comparison.cells):
        end_incomplete("some cells failed or lack test inputs; the table marks them")


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/tune/ has examples.")],
    out: Annotated[
        Path,
        options.out("Output folder for trials and results; every node must be able to reach it."),
    ],
    set_: options.Set = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Total number of trials.")] = None,
    address: options.Address = None,
    resume: options.Resume = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Serve the Ray dashboard (needs ray\\[default]).")
    ] = False,
) -> None:
    """Search hyperparameters without labels, on this machine or a Ray cluster."""
    from medrd.tuning.config import load_tune

    wanted = [] if samples is None else [f"search.samples={samples}"]
    loaded = load_tune(config, [*(set_ or []), *wanted])
    from medrd.tuning.trials import best_of, trials_table
    from medrd.tuning.tune import tune as run

    trials = run(loaded, out, address=address, resume=resume, dashboard=dashboard)
    typer.echo(trials_table(trials))
    if best_of(trials) is not None:
        typer.echo(out / "best.yaml")
    if any(trial.reason for trial in trials):
        end_incomplete(f"some trials failed: see {out / 'trials.csv'}")


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="Output folder of medrd predict, train or evaluate.")
    ],
) -> None:
    """Write report.html for a predict, train or evaluate folder; it opens offline."""
    from medrd.report import write_report as run

    result = run(folder)
    typer.echo(result.path)
    if result.errors:
        shown = result.pages + result.kept
        end_incomplete(f"{shown} results shown, {len(result.errors)} could not be shown")


@app.command()
def phantom(
    out: Annotated[Path, options.out("Output folder.")],
    subjects: Annotated[int, typer.Option(min=1, help="Number of subjects.")] = 8,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed; the same seed gives the same brains.")
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 2,
    varied: Annotated[
        bool,
        typer.Option(
            "--varied",
            help="Vary heads, scanners and lesions as widely as possible; FLAIR only, 1.5 mm.",
        ),
    ] = False,
) -> None:
    """Simulate brains with lesions and labels, in the BraTS layout."""
    from medrd.run.phantoms import make_phantoms

    sort: Literal["glioma", "varied"] = "varied" if varied else "glioma"
    for folder in make_phantoms(out, subjects, seed=seed, sort=sort, workers=workers):
        typer.echo(folder)


@app.command()
def export(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder, or the model/ folder inside it. Default: the built-in model.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[Path, options.out("Output folder for the graph or the bundle.")],
    format_: Annotated[
        Literal["onnx", "pt2", "bundle"],
        typer.Option("--format", help="ONNX, torch.export, or MONAI bundle."),
    ] = "onnx",
) -> None:
    """Export a model for other programs, and check that the export gives the same results."""
    from medrd.exporting.export import export as run

    typer.echo(run(model, out, format=format_))


@app.command()
def models() -> None:
    """List the built-in models, with their measured accuracy."""
    from medrd.run.builtin import list_builtin

    typer.echo(list_builtin())


@app.command()
def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    models: Annotated[
        bool,
        typer.Option("--models", help="Also count each model's parameters, which takes longer."),
    ] = False,
) -> None:
    """Show versions, devices, teacher weights and models."""
    from medrd.doctor import environment, environment_text

    if not json_:
        typer.echo(environment_text(count=models))
        return
    import json

    typer.echo(json.dumps(environment(count=models), indent=2))


if __name__ == "__main__":
    main()
