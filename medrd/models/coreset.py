"""Choose a small bank that covers many features: greedy k-centre in bounded memory and time.

The greedy rule repeatedly takes the point farthest from all points taken so far (Gonzalez 1985: at
most twice the best possible covering radius). Sener & Savarese (ICLR 2018) applied it to coresets,
and PatchCore to patches, with random projections for speed. Two things make it fast here:

- :func:`farthest_points` is the exact rule, but most of its work is matrix products.
- :class:`Candidates` never holds all points. Each full pool of them is thinned to a few times its
  share of the bank, and the greedy rule runs once more over what is left of all pools. By the
  triangle inequality every point seen lies within the pools' largest radius plus that of the bank.
  As long as one pool is enough, this is the exact rule.

Measured by ``benchmarks/coreset.py`` on one thread: the blocks of the first are 11 times as fast as
one point after another on 131,072 points of which 1 % are taken, and choose the same. Pools take
19.5 s where one pool takes 34.2 s for a million points, and its time grows with their square.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

PROJECTION = 128
"""Width at which distances of the coreset are compared, as in PatchCore's released code."""
PROJECTION_SEED = 0
"""Seed of the projection: pools are thinned before a generator is given, and all must share one."""
POOL = 131_072
"""Number of points in a pool; with more, it is thinned."""
OVERSAMPLING = 4.0
"""A thinned pool keeps its share of the coreset times this; ``benchmarks/coreset.py`` compares
others."""
BLOCK = 2048
"""Number of farthest points that are examined together."""
_TILE = 1 << 22
"""Number of distances that are computed at once: 16 MiB."""


def random_projection(width: int, projection: int) -> Tensor:
    """A Gaussian matrix (width, projection) that keeps distances in expectation.

    The identity if nothing has to be reduced.
    """
    if projection >= width:
        return torch.eye(width)
    generator = torch.Generator().manual_seed(PROJECTION_SEED)
    return torch.randn(width, projection, generator=generator) / math.sqrt(projection)


@torch.no_grad()
def farthest_points(points: Tensor, count: int, *, start: int = 0, block: int = BLOCK) -> Tensor:
    """Exact greedy k-centre: each point taken is the farthest from those before it.

    The ``block`` farthest points are examined together. No other point is farther than the nearest
    of them, so the rule can continue among them until even the farthest is nearer than that. Only
    then are all points compared with the new ones, by one matrix product.

    Parameters
    ----------
    points
        (N, D) float32.
    count
        Number of points to take, at most N.
    start
        Index of the first point.

    Returns
    -------
    Tensor
        Indices (count,) int64 without repetition, in the order in which they were taken (in no
        order if all are).
    """
    total = len(points)
    if not 0 < count <= total:
        raise ValueError(f"cannot take {count} of {total} points")
    if count == total:
        others = torch.arange(total, device=points.device)
        return torch.cat([others[start : start + 1], others[:start], others[start + 1 :]])
    # Small norms lose less to cancellation in |a|² + |b|² - 2ab.
    points = points - points.mean(0)
    norms = points.norm(dim=1).square()
    distances = torch.full_like(norms, torch.inf)
    taken = [torch.tensor([start], device=points.device)]
    _lower(distances, points, norms, taken[0])
    missing = count - 1
    while missing:
        size = min(block, total)
        values, index = distances.topk(size)
        bound = float(values[-1]) if size < total else -math.inf
        among = _squared(points[index], norms[index], points[index], norms[index])
        picks = _walk(values.cpu(), among.cpu(), bound, missing)
        chosen = index[picks.to(index.device)]
        _lower(distances, points, norms, chosen)
        taken.append(chosen)
        missing -= len(chosen)
    return torch.cat(taken)


def _walk(distances: Tensor, among: Tensor, bound: float, limit: int) -> Tensor:
    """Apply the greedy rule to a few points, as long as none outside can be farther.

    It takes at least one, since the farthest of all points is among these.
    """
    distances = distances.clone()
    picks: list[int] = []
    while len(picks) < limit:
        best = int(distances.argmax())
        if picks and float(distances[best]) < bound:
            break
        picks.append(best)
        torch.minimum(distances, among[best], out=distances)
        distances[best] = -torch.inf
    return torch.tensor(picks)


def _squared(a: Tensor, a_norms: Tensor, b: Tensor, b_norms: Tensor) -> Tensor:
    """Squared distances (len(a), len(b)), not below 0."""
    # Off, because in bfloat16 the difference would be noise.
    with torch.autocast(a.device.type, enabled=False):
        return torch.addmm(b_norms, a, b.T, alpha=-2).add_(a_norms[:, None]).clamp_(min=0)


def _lower(distances: Tensor, points: Tensor, norms: Tensor, chosen: Tensor) -> None:
    """Update all squared distances with the chosen points, whose own become -inf so that none is
    taken again."""
    centres, centre_norms = points[chosen], norms[chosen, None]
    rows = max(1, _TILE // len(chosen))
    with torch.autocast(points.device.type, enabled=False):
        for part, norm, known in zip(
            points.split(rows), norms.split(rows), distances.split(rows), strict=True
        ):
            # Centres first: the minimum then runs along contiguous rows.
            nearest = torch.addmm(centre_norms, centres, part.T, alpha=-2).amin(0)
            torch.minimum(known, nearest.add_(norm).clamp_(min=0), out=known)
    distances[chosen] = -torch.inf


@torch.no_grad()
def nearest(queries: Tensor, bank: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The nearest points of a bank for each query, by Euclidean distance in float32.

    Matrix products find the neighbours. Their distances are then computed from the differences,
    since a small one would be lost in |a|² + |b|² - 2ab.

    Parameters
    ----------
    queries
        (Q, D) float32.
    bank
        (M, D) of any float type, M at least 1.
    count
        Number of neighbours; M if there are fewer.

    Returns
    -------
    distances, indices
        (Q, min(count, M)), nearest first according to the products.
    """
    count = min(count, len(bank))
    centre = queries.mean(0)
    centred = queries - centre
    best = queries.new_full((len(queries), count), torch.inf)
    index = torch.zeros(len(queries), count, dtype=torch.long, device=queries.device)
    columns = 4096
    rows = _TILE // columns
    with torch.autocast(queries.device.type, enabled=False):
        for first in range(0, len(bank), columns):
            part = bank[first : first + columns].float() - centre
            norms = part.square().sum(1)
            for row in range(0, len(queries), rows):
                here = slice(row, row + rows)
                found = torch.addmm(norms, centred[here], part.T, alpha=-2)
                values, places = found.topk(min(count, len(part)), dim=1, largest=False)
                values = torch.cat([best[here], values], 1)
                places = torch.cat([index[here], places + first], 1)
                best[here], order = values.topk(count, dim=1, largest=False)
                index[here] = places.gather(1, order)
        distances = torch.empty_like(best)
        for neighbour in range(count):
            for row in range(0, len(queries), rows):
                here = slice(row, row + rows)
                difference = queries[here] - bank[index[here, neighbour]].float()
                distances[here, neighbour] = difference.norm(dim=1)
    return distances, index


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenated; bfloat16's autocast would refuse float16."""
    with torch.autocast(parts[0].device.type, enabled=False):
        return torch.cat(list(parts))


class Candidates:
    """Collects features and keeps those that a coreset of all of them may need.

    Parameters
    ----------
    fraction
        Share of the points seen that the coreset will have, in (0, 1].
    pool, oversampling
        See :data:`POOL` and :data:`OVERSAMPLING`.

    Notes
    -----
    Memory: ``pool`` + ``oversampling`` * ``fraction`` * N features in float16; all N if
    ``oversampling`` * ``fraction`` is 1 or more. Time grows with ``fraction`` and ``oversampling``,
    N * ``pool`` while collecting and N² at the end. The result doesn't depend on how the points are
    divided into calls of :meth:`add`.
    """

    def __init__(
        self, *, fraction: float, pool: int = POOL, oversampling: float = OVERSAMPLING
    ) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {fraction}")
        if pool < 1 or oversampling < 1:
            raise ValueError("pool and oversampling must be at least 1")
        self.fraction = fraction
        self.kept = min(1.0, oversampling * fraction)
        # If nothing would be left out, thinning only costs time.
        self.pool = pool if self.kept < 1 else sys.maxsize
        self._forget()

    def _forget(self) -> None:
        self.seen = 0
        self._held: list[Tensor] = []
        self._waiting = 0
        self._thinned: list[Tensor] = []

    def __len__(self) -> int:
        """Number of points currently held."""
        return self._waiting + sum(len(part) for part in self._thinned)

    def add(self, features: Tensor) -> None:
        """Collect (N, D) features; values beyond float16's range become its largest."""
        self.seen += len(features)
        while len(features):
            if self._waiting == self.pool:
                self._thin()
            room = self.pool - self._waiting
            part, features = features[:room], features[room:]
            largest = torch.finfo(torch.float16).max
            self._held.append(part.detach().float().clamp(-largest, largest).half())
            self._waiting += len(part)

    def _thin(self) -> None:
        """Bring the pool down to its candidates."""
        features = _joined(self._held)
        points = self._projected(features)
        outermost = int((points - points.mean(0)).norm(dim=1).argmax())
        count = math.ceil(self.kept * len(points))
        self._thinned.append(features[farthest_points(points, count, start=outermost)])
        self._held, self._waiting = [], 0

    def finish(self, generator: torch.Generator) -> Tensor:
        """Choose the coreset and forget all points; ``generator`` (CPU) draws the first.

        Returns
        -------
        Tensor
            The chosen features (count, D) float16, the first chosen first.

        Raises
        ------
        ValueError
            Nothing was collected.
        """
        if not self.seen:
            raise ValueError("nothing was collected to choose a coreset from")
        if self._thinned and self._waiting:
            self._thin()
        features = _joined([*self._thinned, *self._held])
        count = max(1, int(self.fraction * self.seen))
        self._forget()  # frees memory before it is needed
        start = int(torch.randint(len(features), (1,), generator=generator))
        return features[farthest_points(self._projected(features), count, start=start)]

    def _projected(self, features: Tensor) -> Tensor:
        """(N, D) float16 -> (N, PROJECTION) float32."""
        matrix = random_projection(features.shape[1], PROJECTION).to(features.device)
        with torch.autocast(features.device.type, enabled=False):
            return torch.cat([part.float() @ matrix for part in features.split(1 << 15)])
