"""The guard at prediction: is this scan like those that the model was trained on?"""

from __future__ import annotations

from pathlib import Path

from medrd.data.domain import Prepared
from medrd.data.layouts import Subject, named_kind
from medrd.data.profile import unlike
from medrd.errors import UnlikeTrainingError
from medrd.workflows.model_folder import Model


def oddities(prepared: Prepared, model: Model, subject: Subject | None = None) -> tuple[str, ...]:
    """In what an input is unlike the model's training scans: a sentence each.

    By its looks, where the model has a profile; and by its files' names, where they end as
    BraTS's or BIDS's do: a T1 scan may pass for a FLAIR one by its looks.
    """
    found = [] if subject is None else _by_names(subject)
    if prepared.traits is not None and model.profile is not None:
        found += unlike(prepared.traits, model.profile)
    return tuple(found)


def refuse(where: str | Path, odd: tuple[str, ...]) -> None:
    """Raise UnlikeTrainingError if there is anything odd."""
    if odd:
        raise UnlikeTrainingError(
            where,
            expected="a scan like those that the model was trained on",
            found="; ".join(odd),
            remedy="Mend the scan, take a model for its kind, or leave --strict out.",
        )


def _by_names(subject: Subject) -> list[str]:
    return [
        f"{channel}: by its name, {source.path.name} is a {kind}"
        for channel, source in subject.images.items()
        if (kind := named_kind(source.path, channel))
    ]
