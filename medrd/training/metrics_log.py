"""``metrics.jsonl``: what an epoch cost and how it went."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medrd.files import write_text
from medrd.training.loop import EpochReport

logger = logging.getLogger("medrd.train")

_NAME = "metrics.jsonl"


def say(report: EpochReport) -> None:
    """An epoch as a line for people."""
    logger.info(
        "epoch %d: loss %.4f, %.1f slices/s, %.1f %% of the time waiting for data",
        report.epoch,
        report.loss,
        report.slices_per_s,
        100 * report.wait_share,
    )


def read_reports(out: Path) -> list[EpochReport]:
    """The epochs on record in a run folder."""
    path = out / _NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [EpochReport(**json.loads(line)) for line in lines]


class MetricsLog:
    """``metrics.jsonl``: a line an epoch, whole lines only, none twice after a resume.

    TensorBoard gets the same if it is installed.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / _NAME
        self.lines: list[str] = []
        self.board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"))

    def keep(self, epochs: int) -> None:
        """Drop lines after this epoch: the checkpoint does not have them, they come again."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.lines = [line for line in lines if json.loads(line)["epoch"] <= epochs]
        self._write()

    def add(self, report: EpochReport) -> None:
        """Append an epoch."""
        say(report)
        self.lines.append(json.dumps(asdict(report)))
        self._write()
        if self.board is not None:
            self.board.add_scalar("loss", report.loss, report.epoch)
            self.board.add_scalar("slices_per_s", report.slices_per_s, report.epoch)
            self.board.flush()

    @property
    def last(self) -> EpochReport | None:
        """The last epoch that is done."""
        return EpochReport(**json.loads(self.lines[-1])) if self.lines else None

    @property
    def seconds(self) -> float:
        """Of all epochs, whatever session they ran in."""
        return float(sum(json.loads(line)["seconds"] for line in self.lines))

    def _write(self) -> None:
        write_text(self.path, "".join(f"{line}\n" for line in self.lines))
