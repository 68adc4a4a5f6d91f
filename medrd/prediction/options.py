"""The options of ``medrd predict`` as one object."""

from __future__ import annotations

from dataclasses import dataclass

from medrd.run.engine import Engine
from medrd.run.shard import Shard


@dataclass(frozen=True)
class PredictOptions:
    """Options of a call, the same for all of its inputs.

    Attributes
    ----------
    overwrite
        Predict finished inputs again. Otherwise an input is skipped if the recorded hashes of its
        files, the model and the outputs are the same, and fails if its name belongs to a result of
        another input that still exists.
    frame
        Frame of 4D scans, from 0.
    series
        Series Instance UID, for DICOM folders with several series.
    max_voxels
        Largest volume or picture; default: the model's config.
    device
        ``auto``, ``cpu``, ``cuda`` …
    engine
        See :data:`medrd.run.engine.Engine`.
    strict
        Refuse inputs unlike the model's training scans. Otherwise the log and the JSON file
        (``unlike_training``) warn of the differences. The JSON file also lists what could not be
        checked (``not_judged``).
    picture
        Also write an overlay as PNG.
    prepare
        The inputs are raw heads: prepare them first, into ``prepared`` in the output folder, with
        the defaults of ``medrd prepare``; implies ``native``.
    native
        Also write map and mask on the raw scan's grid, for scans that ``medrd prepare`` wrote.
    dicom
        Also write scores, findings and a report as DICOM, for DICOM series, and with ``native`` for
        scans that ``medrd prepare`` made from a series.
    keep_names
        Keep the patient's name, number, birth date and similar values in the DICOM objects.
    report
        Also write ``report.html``, which covers everything in the output folder; see
        :func:`medrd.write_report`.
    shard
        Predict only this part of the inputs, in the order of their results' paths. Other calls with
        the same output folder predict the other parts.
    """

    overwrite: bool = False
    frame: int | None = None
    series: str | None = None
    max_voxels: int | None = None
    device: str = "auto"
    engine: Engine = "auto"
    strict: bool = False
    picture: bool = True
    prepare: bool = False
    native: bool = False
    dicom: bool = False
    keep_names: bool = False
    report: bool = False
    shard: Shard | None = None


DEFAULTS = PredictOptions()
