"""Damage is found where it is, its dose constant is right, and nothing else passes for it."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from models.damage import Damage, DamageMonitor, Repeats, _all_alike, readouts
from tests.unit.models.scenes import peak

D, SIDE = 48, 24
N = SIDE * SIDE
Float = NDArray[np.float64]
ENDMEMBERS = np.stack([0.3 + 4 * peak(D, at, 2.0) + 2 * peak(D, at + 14, 2.0) for at in (8, 16, 26)])
SHAPES = ENDMEMBERS / ENDMEMBERS.sum(axis=1, keepdims=True)


@dataclass
class Scan:
    """Three phases in bands with a wedge in thickness; each position is given to the likeliest phase by its counts.

    `rates` is the relative loss per unit of dose by phase, `into` what a damaged phase becomes, `mixed` the share
    of the next phase at every position.
    """

    seed: int
    rates: tuple[float, float, float] = (0.0, 0.0, 0.0)
    counts: float = 40.0
    into: int | None = None
    beam_per_dose: float = 0.0
    mixed: float = 0.0
    dose: Float = field(default_factory=lambda: np.zeros(N))
    total: Float = field(default_factory=lambda: np.zeros((N, D)))

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.matrix, covariance = readouts(ENDMEMBERS)
        self.monitor = DamageMonitor(covariance)
        y, x = np.divmod(np.arange(N), SIDE)
        self.phase = y * 3 // SIDE
        self.bright = self.counts * (0.5 + x / SIDE)

    def visit(self, index: NDArray[np.int64], dwell: Float) -> None:
        middle = self.dose[index] + dwell / 2
        rate = np.array(self.rates)[self.phase[index]]
        left = np.exp(-rate * middle)
        mean = left[:, None] * SHAPES[self.phase[index]]
        if self.into is not None:
            mean = mean + (1 - left)[:, None] * SHAPES[self.into]
        mean = (1 - self.mixed) * mean + self.mixed * SHAPES[(self.phase[index] + 1) % 3]
        beam = np.exp(-self.beam_per_dose * middle)
        fresh = self.rng.poisson((self.bright[index] * dwell * beam)[:, None] * mean)
        self.total[index] += fresh
        before = self.dose[index].copy()
        self.dose[index] += dwell
        likeliest = np.argmax(self.total[index] @ np.log(SHAPES).T, axis=1)
        amounts = fresh @ self.matrix, self.total[index] @ self.matrix
        counts = self.total[index].sum(axis=1)
        self.monitor.add(Repeats(np.eye(3)[likeliest], *amounts, counts, before, dwell))

    def passes(self, n: int) -> None:
        for _ in range(n):
            self.visit(np.arange(N), np.ones(N))

    def until_found(self, most: int) -> tuple[int, list[Damage]]:
        for number in range(most):
            self.passes(1)
            if found := self.monitor.found():
                return number + 1, found
        return most, []


@pytest.mark.parametrize("passes", [20, 60])
@pytest.mark.parametrize("into", [None, 2])
def test_damage_is_found_before_a_tenth_is_lost(passes: int, into: int | None) -> None:
    for seed in range(3):
        scan = Scan(seed, (0.0, 1.0 / passes, 0.0), counts=200.0, into=into)
        needed, found = scan.until_found(40)
        assert 1 - np.exp(-needed / passes) < 0.1
        assert 1 in [d.phase for d in found]
        assert all(d.kind == "damage" for d in found)


def test_the_dose_constant_is_right_within_its_error() -> None:
    pulls = []
    for seed in range(12):
        scan = Scan(seed, (0.0, 0.05, 0.0))
        scan.passes(10)
        damage = next(d for d in scan.monitor.found() if d.phase == 1)
        pulls.append((damage.rate - 0.05) / damage.rate_error)
        assert damage.dose_constant == pytest.approx(20.0, abs=5 * damage.dose_constant_error)
        assert damage.dose_constant_error < 3.0
        # At rates of a twentieth a loss of 5 % is reached after a dose of one.
        assert damage.dose_left == 0.0
    assert abs(np.mean(pulls)) < 1.2
    assert 0.4 < np.std(pulls) < 1.7


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05])
def test_the_rate_is_right_also_where_looks_lie_further_and_further_apart(rate: float) -> None:
    """Without noise; a visit is a fifth of the dose so far, more or less, so that visits of many doses are alike."""
    monitor = DamageMonitor(readouts(ENDMEMBERS)[1])
    rng = np.random.default_rng(0)
    ends = np.cumsum(np.maximum(1.0, 0.2 * 1.2 ** np.arange(16)))
    dose = np.zeros(N)
    for end in ends:
        dwell = (end - dose) * rng.uniform(0.8, 1.2, N)
        given = [1e3 * np.where(rate, np.exp(-rate * d) / max(rate, 1e-9), -d) for d in (dose, dose + dwell)]
        whole = 1e3 / max(rate, 1e-9) * bool(rate) - given[1]
        fresh, total = np.zeros((2, N, 3))
        fresh[:, 1], total[:, 1] = given[0] - given[1], whole
        monitor.add(Repeats(np.tile([0.0, 1.0, 0.0], (N, 1)), fresh, total, whole, dose, dwell))
        dose += dwell
    assert monitor._fit(1)[0] == pytest.approx(rate, rel=0.01, abs=1e-5)


def test_dose_left_until_five_per_cent() -> None:
    scan = Scan(0, (0.0, 0.004, 0.0), counts=400.0)
    _, found = scan.until_found(10)
    damage = found[0]
    assert damage.phase == 1
    assert damage.rate == pytest.approx(0.004, abs=4 * damage.rate_error)
    # Five per cent of the amount are gone once the dose that is left has been given as well.
    assert np.exp(-(damage.dose + damage.dose_left) * damage.rate) == pytest.approx(0.95)
    assert 0 < damage.lost < 0.05


def test_nothing_is_found_without_damage_in_any_order_of_visits() -> None:
    for seed in range(4):
        scan = Scan(seed, counts=6.0)
        for number in range(12):
            index = scan.rng.permutation(N)[: N if number % 2 else N // 3]
            scan.visit(np.sort(index), scan.rng.uniform(0.3, 2.0, index.size))
            assert scan.monitor.found() == []


@pytest.mark.parametrize(("mixed", "counts"), [(0.0, 8.0), (0.4, 80.0)])
def test_the_statistic_is_chi_squared_where_nothing_is_lost(mixed: float, counts: float) -> None:
    """Also of mixtures, whose counts scatter otherwise than those of a phase; a sparse scan revisits little else."""
    found = []
    for seed in range(40):
        scan = Scan(seed, counts=counts, mixed=mixed)
        scan.passes(3)
        found += [scan.monitor._statistics(k) for k in range(3)]
    everything, lost = np.array(found).T
    assert everything.mean() == pytest.approx(3.0, abs=4 * np.sqrt(6 / len(found)))
    # One-sided: the square of a standard normal number where it is a loss, which is every second time.
    assert lost.mean() == pytest.approx(0.5, abs=4 * np.sqrt(1.25 / len(found)))


def test_a_beam_that_fades_is_not_called_damage() -> None:
    scan = Scan(0, beam_per_dose=0.02)
    scan.passes(8)
    found = scan.monitor.found()
    assert len(found) == 3
    assert all(d.kind == "intensity" for d in found)


def test_one_phase_that_loses_is_not_called_a_beam_that_fades() -> None:
    """Another, of which little is known yet, may lose as much; one that certainly does not settles it."""
    known = [(-1.8, 6.4), (32.7, 10.8), (31.1, 6.4), (11.9, 6.2)]
    assert not _all_alike(known)
    assert _all_alike([(29.0, 6.4), (32.7, 10.8), (31.1, 6.4), (25.0, 6.2)])
    assert not _all_alike([(1.0, 0.3), (32.7, 10.8), (31.1, 6.4)])


def test_first_visits_say_nothing() -> None:
    scan = Scan(0)
    scan.passes(1)
    assert scan.monitor.found() == []
    assert not scan.monitor._score.any()


def test_halves_of_one_dwell_are_repeats() -> None:
    scan = Scan(0, (0.0, 0.3, 0.0), counts=100.0)
    scan.visit(np.arange(N), np.full(N, 0.5))
    scan.visit(np.arange(N), np.full(N, 0.5))
    damage = scan.monitor.found()[0]
    assert damage.phase == 1
    assert damage.rate == pytest.approx(0.3, abs=4 * damage.rate_error)
