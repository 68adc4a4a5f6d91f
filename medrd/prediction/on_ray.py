"""``medrd predict --ray``: the cases of a call, by processes that load the model once each.

All is as in :func:`medrd.prediction.predict.predict`, to the byte where an actor has as many
threads, but for who does the work. A process that dies, or a whole node, takes with it what was
under way there, and others do it again: what was half done is done over, since an input's JSON
comes last, and every file is whole or not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from medrd.prediction.case import CasePredictor, Job, Outcome
from medrd.prediction.options import DEFAULTS, PredictOptions
from medrd.prediction.predict import PredictReport, predict_inputs
from medrd.run.cases import Case
from medrd.run.model_folder import Model
from medrd.runner.actor import lost_input, pool_on_ray, same_model
from medrd.runner.pool import A_CORE_EACH, Share, Work
from medrd.runner.pool_pass import LostItem


def predict_on_ray(
    model: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    options: PredictOptions = DEFAULTS,
    *,
    share: Share = A_CORE_EACH,
    address: str | None = None,
) -> PredictReport:
    """Predict on all cores and GPUs of this machine, or of a cluster.

    Parameters
    ----------
    model, inputs, out, options
        See :func:`medrd.prediction.predict.predict_inputs`; all nodes must see the paths.
    share
        What each process gets.
    address
        Of a Ray cluster (``auto`` on one of its nodes). Default: ``RAY_ADDRESS``, or a cluster
        of this machine alone for the time of the call.

    Raises
    ------
    ConfigError
        No cluster at the address, more asked for than this machine has, or a device by number.
    MedrdError, InterruptedRunError
        See :func:`medrd.prediction.predict.predict_inputs`.
    """
    do = partial(_do, Path(model), share, address)
    return predict_inputs(model, inputs, out, options, do=do)


def _do(
    path: Path,
    share: Share,
    address: str | None,
    model: Model,
    job: Job,
    cases: Sequence[Case],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Case, Outcome]]:
    share = share.on({job.options.device}, key="--device")
    if not cases:
        return
    with pool_on_ray(
        partial(_make, path, model.hash, job),
        share,
        address,
        name_of=lambda case: case.subject.id,
        should_stop=should_stop,
    ) as pool:
        for index, outcome in pool.map(cases):
            case = cases[index]
            if isinstance(outcome, LostItem):
                outcome = lost_input(case.first_file, outcome, limit="--max-voxels")
            yield case, outcome


def _make(path: Path, wanted: str, job: Job) -> Work[Case, Outcome]:
    return CasePredictor(same_model(path, wanted), job)
