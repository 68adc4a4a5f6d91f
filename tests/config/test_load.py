"""Configs: what people write is understood, or the mistake is named."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medrd.comparison.config import load_compare, make_compare
from medrd.config import Config, digest, load_config, make_config
from medrd.config.load import read_yaml
from medrd.config.unused import unused_keys
from medrd.data.cache import default_cache
from medrd.errors import ConfigError
from medrd.tuning.config import load_tune

LAUGHS = "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghijk")
)
"""A billion laughs: each line says nine times what the line before it says."""
CONFIGS = Path(__file__).parents[2] / "configs" / "brats"


def get(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


# --- What is understood ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.lr=1e-3", 0.001),
        ("model.lr=1E-3", 0.001),
        ("model.lr=.5", 0.5),
        ("model.betas=[0.9, 9e-1]", (0.9, 0.9)),
        ("train.epochs=20", 20),
        ("train.epochs=1e2", 100),
        ("train.compile=true", True),
        ("train.device=cuda:1", "cuda:1"),
        ("recipe.channels=[flair, t1, t2]", ("flair", "t1", "t2")),
        (" recipe.size = 64", 64),
        ("data.root=/a b/ü=c", Path("/a b/ü=c")),
        ("data.root=null", None),
        ("data.root=", None),
        ("data.split.train=7", 7),
        ("data.split.train=1e-1", 0.1),
        ("data.split.train=[a, b]", ("a", "b")),
        ("data.split.train=['1', '2e3']", ("1", "2e3")),
    ],
)
def test_overrides(override: str, value: object) -> None:
    result = get(make_config({}, [override]), override.partition("=")[0].strip())
    assert result == value
    assert type(result) is type(value) or isinstance(value, Path)


def test_later_overrides_win_and_sections_can_be_set_whole() -> None:
    config = make_config(
        {"train": {"epochs": 3, "batch_size": 2}},
        ["train.epochs=4", "train.epochs=5", "data.split={train: 1, test: 2}"],
    )
    assert (config.train.epochs, config.train.batch_size) == (5, 2)
    assert (config.data.split.train, config.data.split.test) == (1, 2)


def test_a_count_and_a_share_are_told_apart_through_yaml() -> None:
    config = make_config({"data": {"split": {"train": 1, "calibration": 1.0, "test": 0}}})
    again = make_config(yaml.safe_load(config.to_yaml()))
    assert type(again.data.split.train) is int
    assert type(again.data.split.calibration) is float


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"model": {"name": "intensity", "channel": 2}},
        {
            "seed": 7,
            "data": {"root": "/dätä", "cache": "x", "split": {"train": ["b", "1"], "test": 2}},
            "recipe": {"channels": ["t1", "t1ce", "t2"], "percentiles": [1, 99]},
            "model": {"teacher": {"name": "resnet18", "weights": "file", "file": "w.pth"}},
        },
    ],
)
def test_yaml_round_trip(raw: dict[str, Any], tmp_path: Path) -> None:
    config = make_config(raw)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(path) == config
    assert digest(load_config(path).to_dict()) == digest(config.to_dict())


def test_the_callers_mapping_is_left_alone() -> None:
    raw: dict[str, Any] = {"model": {"lr": 1}, "data": {}}
    make_config(raw, ["data.root=/x", "train.epochs=2", "model.lr=2"])
    assert raw == {"model": {"lr": 1}, "data": {}}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_loads(path: Path) -> None:
    assert load_config(path, ["data.root=/data"]).data.root == Path("/data")


def test_a_config_cannot_be_changed_after_validation() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3  # type: ignore[misc]


# --- What is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", r"unknown key train\.epoch\. Did you mean epochs\?"),
        ("data.rooot=x", "Did you mean root"),
        ("model.teacher.weight=random", r"model\.teacher\.weight\. Did you mean weights"),
        ("data.split.tst=1", "Did you mean test"),
        ("qqq=1", "Known here: calibration, data, model"),
        ("model.rd4ad={lr: 1}", r"unknown key model\.rd4ad\."),
        # A section called like a model is a likely slip, and was once a traceback.
        ("intensity={}", "unknown key intensity"),
        ("rd4ad.lr=1", "unknown key rd4ad"),
        ("epochs=3", r"Did you mean train\.epochs\?"),
        ("model={data.root: 1}", "Known here: betas"),
        ("model={teacher.name: x}", "Write teacher: and below it, indented, name:"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest_known(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({}, [override])


def test_keys_of_another_model_are_unknown() -> None:
    with pytest.raises(ConfigError, match=r"unknown key model\.lr\..*channel"):
        make_config({"model": {"name": "intensity"}}, ["model.lr=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=0", r"valid train\.epochs.*found 0"),
        ("train.epochs=1.5", r"train\.epochs"),
        ("train.epochs=many", r"train\.epochs.*'many'"),
        ("model.lr=.inf", r"valid model\.lr"),
        ("model.lr=-1", r"valid model\.lr"),
        ("model.loss=both", r"valid model\.loss.*global.*pixel"),
        ("model.betas=[0.9, 1.5]", r"valid model\.betas"),
        ("model.name=rd5", "valid model.name: one of .*rd4ad.*intensity.*found .rd5"),
        ("model=3", "valid model"),
        ("data.split.train=few", r"valid data\.split\.train.*count.*share.*list.*'few'"),
        ("data.split.train=[1, 2]", r"valid data\.split\.train.*in quotes"),
        ("data.split.train=.nan", r"valid data\.split\.train"),
        ("data.split.train=-1", r"valid data\.split\.train: a count of 0 or more"),
        ("data.split.train=1.5", r"valid data\.split\.train: .*a share between 0 and 1"),
        ("data.split.train=true", r"valid data\.split\.train"),
        ("data.layout=bratz", r"valid data\.layout: 'auto', 'msd', .*'bratz'.*--set data\.layout"),
        ("data={kind: pictures, layout: mvtek}", r"valid data\.layout: .*'visa'.*'mvtek'"),
        ("recipe.channels=[]", "at least 1"),
        ("recipe.channels=[flair, t1]", "one or three"),
        ("recipe.channels=[flair, flair, t1]", "must differ"),
        ("recipe.percentiles=[99, 1]", "must rise"),
        ("recipe.percentiles=[0, 101]", "must rise"),
        ("model.teacher.weights=file", "needs file: PATH"),
        ("model.teacher.file=w.pth", "needs weights: file"),
        ("model.teacher.name=wide_resnet50_2", "embedded weights are those of"),
        ("train.epochs=true", r"valid train\.epochs: a whole number; found 'true'"),
        ("model.betas=[0.9, on]", r"valid model\.betas\.1: a number.*Set model\.betas in"),
        ("train.device=off", "valid train.device: a text, in quotes.*found false"),
        ("train.epochs=null", r"a whole number; found nothing"),
        ("data={kind: pictures, category: [1]}", r"valid data\.category: a text"),
        ("data.root=''", r"valid data\.root: a path"),
        ('data.root="a\\0b"', r"valid data\.root: a path"),
        ("schema_version=2", "schema_version"),
        ("seed=-1", "seed"),
    ],
)
def test_bad_values_name_key_and_value(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_config({}, [override], where="here.yaml")
    assert caught.value.where == "here.yaml"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "cure", "message"),
    [
        (
            "recipe.channels=[t2, flair, t1]",
            "model.intensity_weight=0",
            "brightness of the first channel, t2; put flair first",
        ),
        (
            "recipe.normalise=rank",
            "model.intensity_weight=0",
            "recipe.normalise: median.*not rank",
        ),
        ("recipe.axis=sagittal", "model.mirror=false", "mirror.*sagittal"),
    ],
)
def test_rdseg_refuses_scans_that_it_would_misread(override: str, cure: str, message: str) -> None:
    path = CONFIGS / "rdseg.yaml"
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])
    load_config(path, [override, cure])


@pytest.mark.parametrize(
    ("raw", "key", "cure"),
    [
        (
            {"recipe": {"normalise": "rank"}},
            "recipe.percentiles=[1, 99]",
            "recipe.normalise=percentile",
        ),
        ({}, "scoring.top_fraction=0.1", "scoring.image_score=top"),
        ({"model": {"name": "patchcore"}}, "model.neighbours=3", "scoring.image_score=model"),
        (
            {"data": {"kind": "pictures"}},
            "scoring.sigma_across_mm=4",
            "data={kind: volumes, root: /a}",
        ),
    ],
)
def test_what_changes_nothing_cannot_be_set_but_may_stand_in_a_file(
    raw: dict[str, Any], key: str, cure: str
) -> None:
    with pytest.raises(ConfigError, match=f"--set {re.escape(key)}.*not used, since"):
        make_config(raw, [key])
    make_config(raw, [key, cure])
    name, _, value = key.partition("=")
    section, _, inner = name.partition(".")
    held = raw | {section: raw.get(section, {}) | {inner: yaml.safe_load(value)}}
    assert list(unused_keys(make_config(held))) == [name]
    assert not unused_keys(make_config(raw))


@pytest.mark.parametrize("override", ["train.epochs", "=3", "", " =3", "train.epochs.x.y=1"])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        make_config({"train": {"epochs": 1}}, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 3", "valid YAML"),
        ("train:\n\tepochs: 3", "valid YAML"),
        ("- train", "mapping of sections; found list"),
        ("hello", "mapping of sections; found str"),
        ("train: &a {epochs: *a}", "Circular"),
        ("2020-01-01: 3", "unknown key 2020-01-01"),
        ("seed:3", "with a space after the colon"),
        ("train: {epochs: 1}\n---\nseed: 1", "line 2, column 1: found another document"),
        ("a: &a {<<: *a}", "Circular"),
        ("a: &a [x,x,x,x]\n" + LAUGHS, "line 7.*more than 1000000 values"),
        ("a: &a {x: 1}\n" + LAUGHS.replace("[", "{<<: [").replace("]", "]}"), "more than 1000000"),
        ("train: [1]", "valid train"),
        ("!!python/object/apply:os.getcwd []", "valid YAML"),
        ("train: !!timestamp soon", "valid YAML"),
        ("train: !!int three", "valid YAML"),
        ("[" * 1500, "valid YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "seed: 1\ndata: {root: /a}\ntrain: {epochs: 3}\ndata: {healthy: true}\n",
            "data .* 2 and 4",
        ),
        ("model:\n  lr: 1\n  # comment\n  lr: 2\n", "lr twice, in lines 2 and 4"),
        ('data: {split: {train: 1, "train": 2}}\n', "train twice, in lines 1 and 1"),
        ("train:\n- {a: 1,\n   a: 2}\n", "a twice, in lines 2 and 3"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: {y: 2}\n", "<< twice, in lines 3 and 4"),
        ("b:\n  <<: {y: 1,\n    y: 2}\n", "y twice, in lines 2 and 3"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(
    tmp_path: Path, text: str, found: str
) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    for load in (load_config, load_tune, load_compare):
        with pytest.raises(ConfigError, match=found) as caught:
            load(path)
        assert caught.value.where == str(path)
    with pytest.raises(ConfigError, match="train twice"):
        make_config({}, ["data.split={train: 1, train: 2}"])


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(path)["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_windows_saves_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes("data:\r\n  root: /ä\r\n".encode(encoding))
    assert load_config(path).data.root == Path("/ä")


def test_ids_that_yaml_1_1_takes_for_other_numbers_and_dates_are_texts() -> None:
    config = make_config({}, ["data.split.train=[007, 089, 1:30, 2020-01-01]", "seed=010"])
    assert config.data.split.train == ("007", "089", "1:30", "2020-01-01")  # type: ignore[union-attr]
    assert config.seed == 10


@pytest.mark.parametrize("key", ["train", "data", "model", "data.split", "model.teacher"])
def test_a_section_with_nothing_below_it_is_its_defaults(key: str) -> None:
    assert make_config({}, [f"{key}=null"]) == Config()


def test_a_tilde_is_the_home_folder_and_variables_are_replaced_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    teacher = {"weights": "file", "file": "~/w.pth", "name": "resnet18"}
    raw = {"data": {"root": "~/d"}, "model": {"teacher": teacher}}
    config = make_config(raw, ["data.cache=~/c"])
    assert (config.data.root, config.data.cache) == (tmp_path / "d", tmp_path / "c")
    assert config.model.teacher.file == tmp_path / "w.pth"  # type: ignore[union-attr]
    pictures = make_config({"data": {"kind": "pictures", "root": "~/p", "cache": "~"}})
    assert (pictures.data.root, pictures.data.cache) == (tmp_path / "p", tmp_path)
    compared = make_compare(
        {"data_sets": {"a": {"domain": "x", "root": "~/a"}}, "models": {"m": {}}}
    )
    assert compared.data_sets["a"].root == tmp_path / "a"
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    for root in ("$SCRATCH/d", "${SCRATCH}/d"):
        assert make_config({"data": {"root": root}}).data.root == tmp_path / "d"
    assert make_config({"data": {"root": "/a/$NOT_SET"}}).data.root == Path("/a/$NOT_SET")
    monkeypatch.setenv("MEDRD_CACHE", "~/cached")
    assert default_cache() == tmp_path / "cached"
    with pytest.raises(ConfigError, match="write the whole path"):
        make_config({}, ["data.root=~nobody-of-this-name/x"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing there"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="YAML config file"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x81\xff")
    with pytest.raises(ConfigError, match="line 1: bytes that are not UTF-8"):
        load_config(tmp_path / "binary.yaml")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# nothing but a comment\n")
    assert load_config(path) == Config()


def test_the_digest_is_of_content_not_of_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize(
    ("model", "key", "value", "message"),
    [
        ("bikd", "simulation.contents", ["glioma"], "simulation.contents"),
        ("bikd", "simulation.shapes", [], "at least 1"),
        ("bikd", "simulation.beta", [0.5, 0.2], "must rise"),
        ("bikd", "simulation.beta", [0.0, 1.5], "must rise"),
        ("bikd", "simulation.softness_px", [-1.0, 2.0], "must rise"),
        ("bikd", "simulation.probability", 2.0, "simulation.probability"),
        ("bikd", "simulation.min_change", 0.0, "simulation.min_change"),
        ("bikd", "variant", "three_branch", "variant"),
        ("dae", "noise.sigma", -1.0, "noise.sigma"),
        ("dae", "noise.grid", 1, "noise.grid"),
        ("dae", "median", 4, "odd"),
        ("dae", "median", 0, "median"),
        ("rdpp", "noise.octaves", 0, "noise.octaves"),
        ("rdpp", "noise.box_px", [31, 10], "must rise"),
    ],
)
def test_numbers_of_a_model_out_of_range_are_refused(
    model: str, key: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({"model": {"name": model}}, [f"model.{key}={json.dumps(value)}"])
