"""The coreset: the greedy rule exactly, and what thinning in pools keeps of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medrd.models.coreset import Candidates, farthest_points, nearest, random_projection


def points(count: int, width: int = 16, seed: int = 0) -> Tensor:
    """Clusters of unequal size, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(12, width, generator=generator) + 20
    which = torch.multinomial(
        1 / torch.arange(1.0, 13), count, replacement=True, generator=generator
    )
    return centres[which] + torch.randn(count, width, generator=generator)


def slow_greedy(data: Tensor, count: int, start: int) -> list[int]:
    """The rule as it is written, in double precision."""
    taken = [start]
    while len(taken) < count:
        to_taken = torch.cdist(data.double(), data[taken].double()).amin(1)
        taken.append(int(to_taken.argmax()))
    return taken


def radius_of(data: Tensor, chosen: Tensor) -> float:
    return float(torch.cdist(data.double(), chosen.double()).amin(1).max())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_looking_at_many_points_at_once_is_the_greedy_rule(block: int) -> None:
    data = points(700)
    indices = farthest_points(data, 90, start=5, block=block)
    assert indices.tolist() == slow_greedy(data, 90, start=5)


def test_the_greedy_radius_is_at_most_twice_the_best() -> None:
    data = points(14, width=2)
    best = min(
        radius_of(data, data[list(subset)])
        for subset in torch.combinations(torch.arange(14), 3).tolist()
    )
    for start in range(14):
        radius = radius_of(data, data[farthest_points(data, 3, start=start)])
        assert best <= radius * (1 + 1e-6) <= 2 * best * (1 + 1e-5)


def test_taking_all_points_takes_each_once_even_where_they_are_equal() -> None:
    data = points(40).repeat(3, 1)
    indices = farthest_points(data, 120, block=16)
    assert sorted(indices.tolist()) == list(range(120))
    first = farthest_points(data, 40, block=16)  # before any is taken twice
    assert len({int(i) % 40 for i in first}) == 40


@pytest.mark.parametrize("count", [0, 6])
def test_more_points_than_there_are_cannot_be_taken(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} of 5"):
        farthest_points(points(5), count)


def test_a_projection_keeps_distances_roughly_and_is_always_the_same() -> None:
    data = points(200, width=800)
    projection = random_projection(800, 128)
    ratios = torch.pdist(data @ projection) / torch.pdist(data)
    assert float(ratios.mean()) == pytest.approx(1, abs=0.05)
    assert float(ratios.std()) < 1.5 / math.sqrt(2 * 128)
    assert torch.equal(projection, random_projection(800, 128))
    assert torch.equal(data[:, :50] @ random_projection(50, 128), data[:, :50])


def test_one_pool_gives_the_exact_greedy_coreset() -> None:
    data = points(1000).half()
    candidates = Candidates(fraction=0.05, pool=1000)
    candidates.add(data)
    coreset = candidates.finish(seeded(3))
    start = int(torch.randint(1000, (1,), generator=seeded(3)))
    assert torch.equal(coreset, data[slow_greedy(data.float(), 50, start)])


def test_the_seed_chooses_the_first_point_and_repeats_itself() -> None:
    def chosen(seed: int) -> Tensor:
        candidates = Candidates(fraction=0.02, pool=300)
        candidates.add(points(1000))
        return candidates.finish(seeded(seed))

    assert torch.equal(chosen(1), chosen(1))
    assert not torch.equal(chosen(1)[0], chosen(2)[0])


def test_how_points_are_divided_into_calls_does_not_matter() -> None:
    data = points(1000)
    found = []
    for size in (1000, 333, 64):
        candidates = Candidates(fraction=0.02, pool=300)
        for part in data.split(size):
            candidates.add(part)
        found.append(candidates.finish(seeded()))
    assert all(torch.equal(each, found[0]) for each in found)


def test_pools_bound_what_is_held() -> None:
    candidates = Candidates(fraction=0.01, pool=500, oversampling=4)
    for first in range(0, 20_000, 250):
        candidates.add(points(250, seed=first))
        assert len(candidates) <= 500 + 0.04 * candidates.seen
    coreset = candidates.finish(seeded())
    assert coreset.shape == (200, 16)
    assert coreset.dtype == torch.float16


def test_thinning_covers_nearly_as_well_as_the_greedy_rule_and_better_than_chance() -> None:
    data = points(20_000, width=4)
    candidates = Candidates(fraction=0.01, pool=2000, oversampling=4)
    candidates.add(data)
    coreset = candidates.finish(seeded())
    radius = radius_of(data, coreset)
    exact = radius_of(data, data[farthest_points(data, 200)])
    by_chance = radius_of(data, data[torch.randperm(20_000, generator=seeded())[:200]])
    assert radius < 1.5 * exact
    assert radius < 0.75 * by_chance


def test_values_beyond_float16_are_kept_finite() -> None:
    candidates = Candidates(fraction=1.0)
    candidates.add(torch.tensor([[1e6, 0.0], [-1e6, 1.0]]))
    assert candidates.finish(seeded()).abs().max() == 65504


def test_nothing_collected_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was collected"):
        Candidates(fraction=0.5).finish(seeded())


@pytest.mark.parametrize("settings", [{"fraction": 0.0}, {"fraction": 1.5}])
def test_a_fraction_that_is_none_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fraction"):
        Candidates(**settings)


@pytest.mark.parametrize("count", [1, 5])
def test_neighbours_are_those_of_all_distances(count: int) -> None:
    bank, queries = points(9000, width=8), points(1500, width=8, seed=1)
    distances, indices = nearest(queries, bank.half(), count)
    expected, order = torch.cdist(queries.double(), bank.half().double()).topk(count, largest=False)
    torch.testing.assert_close(distances.double(), expected, rtol=1e-4, atol=1e-4)
    assert float((indices == order).float().mean()) > 0.999


def test_small_distances_between_large_features_are_not_lost() -> None:
    bank = 100 + torch.arange(64.0)[None]
    query = bank.clone()
    query[0, 0] += 1e-3
    query = torch.cat([query, -query])  # far from their mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distances, _ = nearest(query, bank)
    assert float(distances[0, 0]) == pytest.approx(1e-3, rel=0.05)


def test_a_bank_smaller_than_wanted_gives_what_it_has() -> None:
    distances, indices = nearest(points(4), points(2, seed=1), 9)
    assert distances.shape == indices.shape == (4, 2)


def test_where_all_would_be_kept_nothing_is_thinned() -> None:
    candidates = Candidates(fraction=0.5, pool=16)
    points = torch.randn(100, 4)
    candidates.add(points)
    assert len(candidates) == 100
    taken = farthest_points(points, 100, start=7)
    assert sorted(taken.tolist()) == list(range(100))
    assert int(taken[0]) == 7
