"""``medrd export``: graphs that give the model's output, for any number of slices."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from medrd.cli import app
from medrd.config import RecipeConfig, make_config
from medrd.config.channel_layout import ChannelLayout
from medrd.data.brains.prepare import prepare_slices
from medrd.errors import ModelError, OutputError
from medrd.exporting import export as export_module
from medrd.exporting.bundle import BundleNetwork
from medrd.exporting.export import export
from medrd.images.nifti import read_nifti
from medrd.models.detectors import DETECTORS, detector_class
from medrd.models.exportable import Exportable
from medrd.models.intensity import Intensity
from medrd.run.card import model_card
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model, load_model, make_detector, save_model
from medrd.run.predictor import Predictor
from training import SMALL, build, scoring_of, small_teacher

TRAINING: dict[str, Any] = {
    "subjects": {"a": "1", "b": "2"},
    "calibration_subjects": {},
    "split_hash": "abc",
    "seed": 0,
}


def saved(folder: Path, model: dict[str, Any], **raw: dict[str, Any]) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    recipe = {"size": 64, "min_brain_mm2": 2000, **raw.pop("recipe", {})}
    config = make_config({"recipe": recipe, "model": model, **raw})
    save_model(folder, make_detector(config), config, calibration=None, training=TRAINING)
    return folder


def native(model: Model) -> Predictor:
    return Predictor(model.detector, model.scoring(), choose_execution("cpu", "fp32"))


# --- The module that becomes a graph ---


@pytest.mark.parametrize("score", ["max", "top", "mean"])
@pytest.mark.parametrize("across_mm", [0.0, 2.0])
def test_the_module_says_what_prediction_says(score: Any, across_mm: float) -> None:
    torch.manual_seed(1)
    detector = build(Intensity)
    scoring = scoring_of(32, image_score=score, sigma_across_mm=across_mm)
    network = Exportable(detector, scoring, size=32)
    images = torch.rand(7, 1, 32, 32)
    region = torch.rand(7, 32, 32) > 0.4
    region[3] = False  # an empty one has score 0
    places = torch.tensor([0.0, 1, 2, 5, 6, 7, 9])
    given = (images, region, places) if across_mm else (images, region)
    maps, scores = network(*given)
    predictor = Predictor(detector, scoring, choose_execution("cpu", "fp32"), batch_size=2)
    expected = predictor.maps(images.numpy(), region.numpy(), places.double().numpy())
    np.testing.assert_allclose(maps.numpy(), expected[0], atol=1e-6)
    np.testing.assert_allclose(scores.numpy(), expected[1], atol=1e-6)
    assert scores[3] == 0


@pytest.mark.parametrize("name", [n for n in DETECTORS if n != "patchcore"])
def test_every_method_makes_a_graph_for_any_number_of_slices(name: str) -> None:
    torch.manual_seed(0)
    detector = build(detector_class(name), small_teacher(name, "test_resnet"))
    network = Exportable(detector, scoring_of(64), size=64)
    interface = export_module.Interface(ChannelLayout(("a", "b", "c")), 64, positions=False)
    module = export_module.trace(network, interface).module()
    given = interface.example(3)
    with torch.no_grad():
        for ours, native in zip(module(*given), network(*given), strict=True):
            torch.testing.assert_close(ours, native, atol=1e-5, rtol=1e-5)


# --- Files ---


@dataclass(frozen=True)
class Exported:
    """A model with inputs of every kind, as ONNX."""

    model: Path
    out: Path
    stdout: str

    def assert_agrees(self, scan: Path, *parts: slice) -> None:
        """Graph and model say the same of a scan's slices, in batches of these."""
        import onnxruntime

        model = load_model(self.model)
        assert isinstance(model.recipe, RecipeConfig)
        prepared = prepare_slices({"flair": read_nifti(scan)}, model.recipe)
        session = onnxruntime.InferenceSession(self.out / "model.onnx")
        for part in parts:
            images, region = prepared.images[part], prepared.region[part]
            places = prepared.positions_mm[part]
            maps, scores = native(model).maps(images, region, places)
            given = {"images": images, "region": region, "positions_mm": places.astype(np.float32)}
            ours = session.run(None, given)
            np.testing.assert_allclose(ours[0], maps, atol=1e-4)
            np.testing.assert_allclose(ours[1], scores, atol=1e-4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("onnx")
    model = saved(
        root / "m",
        {"name": "rdseg", "teacher": {"name": "test_resnet", "weights": "random"}},
        recipe={"neighbours_mm": [4.0], "place": True},
        scoring={"sigma_across_mm": 4.0},
    )
    done = CliRunner().invoke(app, ["export", str(model), "--out", str(root / "out")])
    assert done.exit_code == 0, done.output
    return Exported(model, root / "out", done.stdout)


def test_onnx_agrees_with_the_model_on_a_scans_slices_in_batches_of_any_size(
    exported: Exported, tiny_root: Path
) -> None:
    assert exported.stdout.split() == [str(exported.out / "model.onnx")]
    names = {path.name for path in exported.out.iterdir()}
    assert names == {"model.onnx", "interface.json", "MODEL_CARD.md"}
    interface = json.loads((exported.out / "interface.json").read_text(encoding="utf-8"))
    assert interface["largest_difference"] <= 1e-4
    assert (interface["compared_in"], interface["calibrated_in"]) == ("fp32", None)
    assert list(interface["inputs"]) == ["images", "region", "positions_mm"]
    shown = ["flair", "flair -4 mm off", "flair +4 mm off"]
    places = ["row", "distance from the middle", "height"]
    assert interface["inputs"]["images"]["channels"] == shown + places
    scan = tiny_root / "tiny_0" / "tiny_0_flair.nii.gz"
    exported.assert_agrees(scan, slice(0, 1), slice(1, 4), slice(None))


def test_a_graph_agrees_on_real_slices(exported: Exported, brats_root: Path) -> None:
    scan = next(path for path in sorted(brats_root.rglob("*_flair.nii*")))
    exported.assert_agrees(scan, slice(None, None, 8))


def test_pt2_holds_all_inputs_of_a_model_that_smooths_across_slices(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", {"name": "intensity"}, scoring={"sigma_across_mm": 2.0})
    file = export(folder, tmp_path / "out", format="pt2")
    module = torch.export.load(file).module()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 64, 64, generator=generator)
    region, places = torch.ones(4, 64, 64, dtype=torch.bool), torch.tensor([0.0, 1, 2, 4])
    with torch.no_grad():
        maps, scores = module(images, region, places)
    expected = native(load_model(folder)).maps(
        images.numpy(), region.numpy(), places.double().numpy()
    )
    np.testing.assert_allclose(maps.numpy(), expected[0], atol=1e-5)
    np.testing.assert_allclose(scores.numpy(), expected[1], atol=1e-5)


def test_what_was_compared_and_what_calibrated_in_which_precision_is_said(
    quick: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def said(model: Model) -> dict[str, Any]:
        with caplog.at_level(logging.INFO, "medrd.export"):
            export(model, tmp_path / "out", format="pt2")
        written = (tmp_path / "out" / "interface.json").read_text(encoding="utf-8")
        return dict(json.loads(written))

    interface = said(replace(quick, description=quick.description | {"precision": "bf16"}))
    assert (interface["compared_in"], interface["calibrated_in"]) == ("fp32", "bf16")
    assert any("the model in fp32 by" in message for message in caplog.messages)
    assert quick.description["precision"] == choose_execution().precision  # as train wrote it
    before = {k: v for k, v in quick.description.items() if k != "precision"}
    assert said(replace(quick, description=before))["calibrated_in"] is None


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = saved(tmp_path / "m", {"name": "intensity"}), tmp_path / "out"
    monkeypatch.setattr(export_module, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="a difference of"):
        export(folder, out, format="pt2")
    assert list(out.iterdir()) == []


def test_a_graph_that_says_nan_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = export_module.save_pt2

    def spoilt(*given: Any) -> Any:
        run = save(*given)
        return lambda *x: (run(*x)[0] * np.float32("nan"), run(*x)[1])

    monkeypatch.setattr(export_module, "save_pt2", spoilt)
    with pytest.raises(ModelError, match="a difference of inf"):
        export(saved(tmp_path / "m", {"name": "intensity"}), tmp_path / "out", format="pt2")


def test_what_the_exporter_cannot_do_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch._dynamo.exc.UserError(
            torch._dynamo.exc.UserErrorType.CONSTRAINT_VIOLATION, "Constraints violated (slices)!"
        )

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(ModelError, match="UserError: Constraints violated"):
        export(saved(tmp_path / "m", {"name": "intensity"}), tmp_path / "out")


def test_graphs_of_two_models_never_share_a_folder(tmp_path: Path) -> None:
    first = saved(tmp_path / "a", {"name": "intensity"})
    second = saved(tmp_path / "b", {"name": "intensity"}, scoring={"sigma_px": 1})
    out = tmp_path / "out"
    out.mkdir()
    (out / ".model.onnx.left").touch()  # of a killed export
    for format in ("onnx", "pt2"):
        export(first, out, format=format)  # type: ignore[arg-type]
    assert {"model.onnx", "model.pt2"} <= {path.name for path in out.iterdir()}
    export(second, out, format="pt2")
    assert not (out / "model.onnx").exists()
    interface = json.loads((out / "interface.json").read_text(encoding="utf-8"))
    assert interface["model"]["hash"] == load_model(second).hash
    (out / "model.pt2").unlink()  # killed between the two files
    assert export(second, out, format="onnx").is_file()


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_the_steps_of_the_documentation_make_the_slices_of_prediction(
    tiny_root: Path, axis: Any
) -> None:
    """Done by hand, from nothing but the recipe and docs/export.md."""
    recipe = RecipeConfig(size=64, field_mm=256, axis=axis, min_brain_mm2=500)
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    scan = read_nifti(tiny_root / "tiny_0" / "tiny_0_flair.nii.gz")
    prepared = prepare_slices({"flair": scan}, recipe)

    # Step 4: R, A and S of an array in RAS+ become the axes in the table's last column.
    image = nib.as_closest_canonical(nib.Nifti1Image(scan.array, scan.affine))
    array = np.asarray(image.dataobj)
    (codes,) = re.findall(rf"`{axis}` .* (\w), (\w), (\w) \|", page)
    place = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    stack = array.transpose([place[code] for code in codes])
    stack = stack[tuple(slice(None, None, 1 if code in "RAS" else -1) for code in codes)]
    brain = ndimage.binary_fill_holes(stack != 0)
    low, high = np.percentile(stack[brain], recipe.percentiles)
    normal = np.clip((stack - low) / (high - low), 0, 1) * brain
    # Its voxels have 4 mm: 64 of them fill the field, so that nothing is resized.
    for dim in (1, 2):
        where = np.flatnonzero(brain.any(axis=tuple(d for d in range(3) if d != dim)))
        start = int(np.floor((where[0] + where[-1] + 1) / 2 - 32 + 0.5))
        pad = [(0, 0)] * 3
        pad[dim] = (64, 64)
        normal = np.pad(normal, pad).take(range(start + 64, start + 128), axis=dim)
    np.testing.assert_allclose(normal[prepared.numbers], prepared.images[:, 0], atol=1e-6)
    areas = brain.sum(axis=(1, 2)) * 16
    assert list(prepared.numbers) == list(np.flatnonzero(areas >= 500))


def test_what_makes_no_graph_and_a_folder_with_other_files_are_refused(tmp_path: Path) -> None:
    teacher = {"name": SMALL, "weights": "random"}
    bank = saved(tmp_path / "bank", {"name": "patchcore", "teacher": teacher})
    with pytest.raises(ModelError, match="searches a bank"):
        export(bank, tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").touch()
    folder = saved(tmp_path / "m", {"name": "intensity"})
    for format in ("onnx", "bundle"):
        with pytest.raises(OutputError, match="other files"):
            export(folder, tmp_path / "full", format=format)  # type: ignore[arg-type]


# --- A MONAI bundle ---


def test_monai_verifies_the_bundle_and_runs_it_to_the_same_map(
    tiny_root: Path, tmp_path: Path
) -> None:
    from monai.bundle import run, verify_net_in_out

    teacher = {"name": SMALL, "weights": "random"}
    folder = saved(tmp_path / "m", {"name": "rd4ad", "teacher": teacher})
    bundle = export(folder, tmp_path / "bundle", format="bundle")
    meta, config = bundle / "configs" / "metadata.json", bundle / "configs" / "inference.json"
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    BundleNetwork(str(bundle / "models" / "medrd")).load_state_dict(weights)  # strict
    common = {"meta_file": str(meta), "config_file": str(config), "bundle_root": str(bundle)}
    verify_net_in_out(net_id="network_def", device="cpu", **common)  # type: ignore[arg-type]
    run(
        run_id="run",
        device="cpu",
        dataset_dir=str(tiny_root / "tiny_0"),
        output_dir=str(tmp_path / "maps"),
        **common,  # type: ignore[arg-type]
    )
    from medrd.prediction.predict import predict

    predict(folder, [tiny_root / "tiny_0"], tmp_path / "direct", device="cpu")
    ours, theirs = (
        read_nifti(tmp_path / folder / "tiny_0_anomaly.nii.gz").array
        for folder in ("maps", "direct")
    )
    np.testing.assert_array_equal(ours, theirs)

    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.nii.gz").write_text("no scan")
    with pytest.raises(RuntimeError) as failed:
        run(
            run_id="run",
            device="cpu",
            dataset_dir=str(tmp_path / "bad"),
            output_dir=str(tmp_path / "none"),
            **common,  # type: ignore[arg-type]
        )
    assert "1 failed inputs" in str(failed.value.__cause__)


def test_somebody_elses_bundle_is_not_written_into(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", {"name": "intensity"})
    configs = tmp_path / "theirs" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text('{"required_packages_version": {"nibabel": "5"}}')
    with pytest.raises(OutputError, match="other files"):
        export(folder, tmp_path / "theirs", format="bundle")
    out = export(folder, tmp_path / "mine", format="bundle")
    (out / "configs" / "metadata.json").unlink()  # killed before the last file
    assert (export(folder, out, format="bundle") / "configs" / "metadata.json").is_file()


def test_a_bundle_of_a_model_of_stacks_takes_all_their_channels(tmp_path: Path) -> None:
    from monai.bundle import verify_net_in_out

    recipe = {"channels": ["flair", "t2"], "neighbours_mm": [1], "place": True}
    model = {"name": "rdseg", "teacher": {"name": SMALL, "weights": "random"}}
    bundle = export(saved(tmp_path / "m", model, recipe=recipe), tmp_path / "out", format="bundle")
    meta, config = bundle / "configs" / "metadata.json", bundle / "configs" / "inference.json"
    image = json.loads(meta.read_text(encoding="utf-8"))["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == len(image["channel_def"]) == 2 * 3 + 3
    verify_net_in_out(
        net_id="network_def",
        device="cpu",
        meta_file=str(meta),
        config_file=str(config),
        bundle_root=str(bundle),  # type: ignore[arg-type]
    )


# --- The card ---


def test_every_model_has_a_card_with_its_data_and_limits(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", {"name": "intensity"})
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert load_model(folder).hash in card
    for fact in ("`intensity`", "split: `abc`, seed 0", "Not evaluated", "not a medical device"):
        assert fact in card


@pytest.mark.parametrize(
    ("name", "trained_on", "finds"),
    [
        (
            "intensity",
            "nothing (the training side of the split has 2 inputs, ",
            "bright in its input",
        ),
        ("dae", "2 inputs, ", "unlike its training data"),
    ],
)
def test_the_card_of_a_method_that_learns_nothing_says_so(
    name: str, trained_on: str, finds: str
) -> None:
    config = make_config({"model": {"name": name}}).to_dict()
    card = model_card({"config": config, "training": TRAINING, "calibration": None}, "hash")
    assert f"- trained on: {trained_on}" in card
    assert f"The model finds what is {finds}," in card
