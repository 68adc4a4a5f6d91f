"""The verbs: parse, call one workflow, print. Heavy imports happen inside the verbs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="medrd",
    help="Unsupervised anomaly detection in brain MRI by knowledge distillation. "
    "Research use only; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a config key; may be repeated."),
]


class ExportFormat(StrEnum):
    """What ``medrd export`` writes."""

    onnx = "onnx"
    pt2 = "pt2"
    bundle = "bundle"


class Brain(StrEnum):
    """How ``medrd prepare`` finds the brain."""

    template = "template"
    deepbet = "deepbet"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OnRay = Annotated[
    bool, typer.Option("--ray", help="In processes of Ray's, on this machine or a cluster.")
]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; auto on one of its nodes.")]
Actors = Annotated[
    int | None, typer.Option(min=1, help="Ray's processes; default: as many as there is room.")
]
Cpus = Annotated[int | None, typer.Option(min=1, help="Cores of each of them; default: 1.")]
Gpus = Annotated[
    float | None,
    typer.Option(min=0.0, help="GPUs of each; 0.5: two share one. Default: 1 where there are."),
]


def _wants_ray(ray: bool, *options: object) -> bool:
    """Any of its options asks for it."""
    return ray or any(option is not None for option in options)


def _show_version(wanted: bool) -> None:
    if wanted:
        import medrd

        typer.echo(medrd.__version__)
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what is found and chosen.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say it.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
) -> None:
    """Options of every verb."""
    from medrd.workflows.logs import set_up_logging

    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other")
    set_up_logging(verbose=verbose, quiet=quiet)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo"),
    subjects: Annotated[int, typer.Option(min=4, help="Simulated brains.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Of training.")] = 12,
) -> None:
    """Simulated brains: make, train, predict, evaluate; no data needed."""
    from medrd.workflows.demo import run_demo

    typer.echo(run_demo(out, subjects=subjects, epochs=epochs))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes of Ray's that share each batch.")
    ] = 1,
    cpus: Annotated[
        int | None,
        typer.Option(min=1, help="Cores of each; default: all of a machine's, 1 on a cluster."),
    ] = None,
    address: Address = None,
) -> None:
    """Train on healthy slices and calibrate thresholds."""
    from medrd.config import load_config

    loaded = load_config(config, set_ or [])
    if workers > 1 or _wants_ray(False, address, cpus):
        from medrd.workflows.train_on_ray import train_on_ray

        run = train_on_ray(loaded, out, workers=workers, cpus=cpus, address=address, resume=resume)
    else:
        from medrd.workflows.train import train as train_here

        run = train_here(loaded, out, resume=resume)
    typer.echo(run)
    if (out / "errors.json").exists():
        typer.echo(f"some inputs were left out: see {out / 'errors.json'}", err=True)
        raise typer.Exit(3)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Run folder, or its model/.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI files, BraTS subject folders, BIDS datasets, DICOM series, folders of "
            "those; for a model of pictures, pictures and folders of those."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for maps, masks, JSON and overlays.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also scans or pictures that are done.")
    ] = False,
    frame: Annotated[
        int | None, typer.Option(min=0, help="Which frame of 4D scans, from 0.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Series Instance UID, where a DICOM folder has several.")
    ] = None,
    max_voxels: Annotated[
        int | None, typer.Option(min=1, help="Refuse larger volumes or pictures unread.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail scans unlike those that the model knows.")
    ] = False,
    device: Device = "auto",
    ray: OnRay = False,
    address: Address = None,
    actors: Actors = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    native: Annotated[
        bool,
        typer.Option("--native", help="Of scans from medrd prepare: maps on the raw grid too."),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html to look at the maps.")
    ] = False,
) -> None:
    """Write anomaly maps on the scans' or pictures' own grids."""
    from medrd.workflows.pool import Share
    from medrd.workflows.predict import PredictReport
    from medrd.workflows.predict import predict as predict_here
    from medrd.workflows.predict_on_ray import predict_on_ray

    if _wants_ray(ray, address, actors, cpus, gpus):
        share = Share(cpus or 1, gpus, actors)
        run: Callable[..., PredictReport] = partial(predict_on_ray, share=share, address=address)
    else:
        run = predict_here
    result = run(
        model,
        inputs,
        out,
        overwrite=overwrite,
        frame=frame,
        series=series,
        max_voxels=max_voxels,
        strict=strict,
        device=device,
        native=native,
        report=report,
    )
    for path in result.done:
        typer.echo(path)
    if result.page:
        typer.echo(result.page.path)
    done, skipped, failed = len(result.done), len(result.skipped), len(result.errors)
    typer.echo(f"{done} predicted, {skipped} already there, {failed} failed", err=True)
    if result.errors or (result.page and result.page.errors):
        typer.echo(f"see {out / 'errors.json'}", err=True)
        raise typer.Exit(3)


@app.command()
def prepare(
    scans: Annotated[
        list[Path],
        typer.Argument(help="Raw heads: NIfTI files, BIDS datasets, DICOM series, folders."),
    ],
    out: Annotated[Path, typer.Option(help="Gets a folder a subject, in BraTS's layout.")],
    modality: Annotated[
        str | None, typer.Option(help="flair, t1, t1ce or t2, where names do not say it.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="T1-weighted NIfTI; default: MNI152, which is installed.")
    ] = None,
    template_mask: Annotated[
        Path | None, typer.Option(help="Of its brain; none: it is without skull.")
    ] = None,
    brain: Annotated[
        Brain, typer.Option(help="Brain extraction: the template's mask, refined, or deepbet.")
    ] = Brain.template,
    bias: Annotated[bool, typer.Option(help="Correct the bias field (N4).")] = True,
    stretch: Annotated[
        bool, typer.Option("--stretch", help="Also bring heads to the template's size.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also subjects that are done.")
    ] = False,
    frame: Annotated[
        int | None, typer.Option(min=0, help="Which frame of 4D scans, from 0.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Series Instance UID, where a DICOM folder has several.")
    ] = None,
) -> None:
    """Bring raw heads to what models were trained on: bias, registration, 1 mm, brain alone."""
    from medrd.heads.brain import Extraction
    from medrd.heads.head import Options
    from medrd.workflows.prepare import prepare as run

    result = run(
        scans,
        out,
        template=template,
        template_mask=template_mask,
        options=Options(bias=bias, stretch=stretch, extraction=Extraction(brain.value)),
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
        typer.echo(f"see {out / 'errors.json'}", err=True)
        raise typer.Exit(3)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Run folder, or its model/.")],
    config: Annotated[Path, typer.Argument(help="YAML file that names data and split.")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json.")],
    set_: Set = None,
    device: Device = "auto",
    ray: OnRay = False,
    address: Address = None,
    actors: Actors = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    baseline: Annotated[bool, typer.Option(help="Also evaluate the intensity baseline.")] = True,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: curves, best and worst cases.")
    ] = False,
) -> None:
    """Measure a model on test subjects it has never seen."""
    from medrd.config import load_config

    loaded = load_config(config, set_ or [])
    from medrd.report.table import metrics_table
    from medrd.workflows.evaluate import evaluate as evaluate_here
    from medrd.workflows.evaluate_on_ray import evaluate_on_ray
    from medrd.workflows.pool import Share

    run: Callable[..., Path] = evaluate_here
    if _wants_ray(ray, address, actors, cpus, gpus):
        share = Share(cpus or 1, gpus, actors)
        run = partial(evaluate_on_ray, share=share, address=address)
    path = run(model, loaded, out, device=device, baseline=baseline, report=report)
    typer.echo(metrics_table(path))
    typer.echo(path)
    if (out / "errors.json").exists():
        typer.echo(f"some subjects failed: see {out / 'errors.json'}", err=True)
        raise typer.Exit(3)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/compare/.")],
    out: Annotated[Path, typer.Option(help="Folder for cells and results; goes on if there.")],
    set_: Set = None,
    ray: OnRay = False,
    address: Address = None,
    actors: Actors = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Models x data sets x seeds: train, evaluate, one table and one figure."""
    from medrd.config.compare import load_compare

    loaded = load_compare(config, set_ or [])
    if _wants_ray(ray, address, actors, cpus, gpus):
        from medrd.workflows.compare_on_ray import compare_on_ray
        from medrd.workflows.pool import Share

        comparison = compare_on_ray(
            loaded, out, share=Share(cpus or 1, gpus, actors), address=address
        )
    else:
        from medrd.workflows.compare import compare as compare_here

        comparison = compare_here(loaded, out)
    typer.echo((out / "results.md").read_text(encoding="utf-8"))
    typer.echo(out / "results.md")
    if any(cell.error or not cell.complete for cell in comparison.cells):
        typer.echo("some cells failed or lack test inputs; they are marked above", err=True)
        raise typer.Exit(3)


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/tune/.")],
    out: Annotated[Path, typer.Option(help="Folder for trials and results, seen by all nodes.")],
    set_: Set = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Trials in all.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; auto on one of its nodes.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped search.")] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Let Ray serve its dashboard (ray[default]).")
    ] = False,
) -> None:
    """Search hyperparameters, judged without labels, on this machine or a Ray cluster."""
    from medrd.config.tune import load_tune

    wanted = [] if samples is None else [f"search.samples={samples}"]
    loaded = load_tune(config, [*(set_ or []), *wanted])
    from medrd.report.search import best_of, trials_table
    from medrd.workflows.tune import tune as run

    trials = run(loaded, out, address=address, resume=resume, dashboard=dashboard)
    typer.echo(trials_table(trials))
    if best_of(trials) is not None:
        typer.echo(out / "best.yaml")
    if any(trial.status == "failed" for trial in trials):
        typer.echo(f"some trials failed: see {out / 'trials.csv'}", err=True)
        raise typer.Exit(3)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What medrd predict, train or evaluate wrote.")],
) -> None:
    """Write report.html: a page to open by double click, without a network."""
    from medrd.workflows.report import write_report as run

    result = run(folder)
    typer.echo(result.path)
    if result.errors:
        typer.echo(f"{result.pages} shown, {len(result.errors)} could not be", err=True)
        raise typer.Exit(3)


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder for the cohort.")],
    subjects: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same brains.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Simulate brains with lesions and labels, laid out like BraTS."""
    from medrd.workflows.phantom import make_phantoms

    for folder in make_phantoms(out, subjects, seed=seed, workers=workers):
        typer.echo(folder)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Run folder, or its model/.")],
    out: Annotated[Path, typer.Option(help="Folder for the graph, or the bundle.")],
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="ONNX, torch.export, or a MONAI bundle.")
    ] = ExportFormat.onnx,
) -> None:
    """Write a model as a graph for other programs, checked against the model itself."""
    from medrd.workflows.export import export as run

    typer.echo(run(model, out, format=format_.value))


@app.command()
def doctor(
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Versions, devices, teacher weights and models."""
    from medrd.workflows.doctor import examine, findings

    if not json_:
        typer.echo(examine())
        return
    import json

    typer.echo(json.dumps(findings(), indent=2))


def main() -> None:
    """Entry point: errors that a user can mend become one line and an exit code."""
    from medrd.errors import MedrdError

    # Where nothing has to be saved first, SIGTERM ends a verb as Ctrl-C does: with a word and
    # with its temporary files removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except MedrdError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as leave:
        if leave.code == 130:  # what Typer makes of a KeyboardInterrupt
            typer.echo("interrupted", err=True)
        raise
    except Exception as error:
        if getattr(error, "exit_code", None) == 130:  # a run that saved itself and stopped
            typer.echo(str(error), err=True)
            sys.exit(130)
        raise


if __name__ == "__main__":
    main()
