"""``metrics.jsonl``: the loss and the speed of every epoch."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medrd.files import write_text
from medrd.training.loop import EpochMetrics

logger = logging.getLogger("medrd.train")

_NAME = "metrics.jsonl"


def log_epoch(metrics: EpochMetrics) -> None:
    """Log an epoch in one readable line."""
    logger.info(
        "epoch %d: loss %.4f, %.1f slices/s, %.1f %% of the time waiting for data",
        metrics.epoch,
        metrics.loss,
        metrics.slices_per_s,
        100 * metrics.wait_share,
    )


def read_epochs(out: Path) -> list[EpochMetrics]:
    """Read the metrics of the epochs recorded in a run folder."""
    path = out / _NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [EpochMetrics(**json.loads(line)) for line in lines]


class MetricsLog:
    """Writes ``metrics.jsonl``: one complete line per epoch, also after a resume.

    TensorBoard gets the same numbers if it is installed.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / _NAME
        self.lines: list[str] = []
        self.board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"))

    def keep(self, epochs: int) -> None:
        """Drop the lines after this epoch: the checkpoint lacks those epochs, so they are
        repeated."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.lines = [line for line in lines if json.loads(line)["epoch"] <= epochs]
        self._write()

    def add(self, metrics: EpochMetrics) -> None:
        """Append an epoch."""
        log_epoch(metrics)
        content = asdict(metrics)
        del content["last"]
        self.lines.append(json.dumps(content))
        self._write()
        if self.board is not None:
            self.board.add_scalar("loss", metrics.loss, metrics.epoch)
            self.board.add_scalar("slices_per_s", metrics.slices_per_s, metrics.epoch)
            self.board.flush()

    @property
    def last(self) -> EpochMetrics | None:
        """The last finished epoch, if any."""
        return EpochMetrics(**json.loads(self.lines[-1])) if self.lines else None

    @property
    def seconds(self) -> float:
        """Duration of all epochs, over all sessions."""
        return float(sum(json.loads(line)["seconds"] for line in self.lines))

    def _write(self) -> None:
        write_text(self.path, "".join(f"{line}\n" for line in self.lines))
