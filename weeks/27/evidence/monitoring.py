"""Alarms without drift and with it, on numbers, digits and sentences."""

import itertools

import numpy as np
from scipy import stats

from shared import plots
from shared.study import Run
from week27.evidence.drifting_inputs import LEVEL, judge_digits, judge_sentences, rng_of
from week27.monitoring import (
    Monitor,
    bin_edges,
    counts,
    distances,
    energy_test,
    ks_gap,
    ks_p_value,
    psi,
    psi_threshold,
    spent,
)

BINS = 10
WITHIN = 10  # windows in which an alarm is still of use


def main(run: Run) -> None:
    """Check statistics and laws, count alarms, and measure what each test sees."""
    run.rounding(0.05, "an alarm at its threshold may fall the other way")
    check_ks(run)
    check_psi(run)
    check_energy(run)
    judge_folk_threshold(run)
    judge_levels(run)
    judge_windows(run)
    judge_digits(run)
    if run.mode != "quick":  # the encoder's weights take seconds
        judge_sentences(run)


# ---- checks


def check_ks(run: Run) -> None:
    """Statistic and exact p-value, with ties too."""
    ours, theirs = [], []
    for i, (n, m) in enumerate([(5, 8), (40, 40), (7, 100), (1, 3), (150, 60)]):
        rng = rng_of(run, 1, i)
        a, b = rng.normal(size=n).round(i % 2 + 1), rng.normal(0.3, size=m).round(i % 2 + 1)
        gap = ks_gap(a, b)
        ours.append((gap / (n * m), ks_p_value(gap, n, m)))
        found = stats.ks_2samp(a, b, method="exact")
        theirs.append((found.statistic, found.pvalue))
    same = run.against("scipy.stats.ks_2samp", atol=1e-12, why="float64 rounding")
    same("KS: statistic and exact p-value", ours, theirs)


def check_psi(run: Run) -> None:
    """PSI as two relative entropies; its alarm rate by all tables of counts and by draws."""
    rng = rng_of(run, 2)
    p, q = rng.dirichlet(np.ones(6), 2)
    expected, actual = (np.round(1000 * c).astype(int) + 1 for c in (p, q))
    a, b = expected / expected.sum(), actual / actual.sum()
    both = stats.entropy(a, b) + stats.entropy(b, a)
    same = run.against("scipy.stats.entropy both ways", atol=1e-12, why="float64 rounding")
    same("PSI", psi(expected, actual, prior=0.0), both)
    n, bins, threshold = 12, 3, 0.3
    flat = np.full(bins, 40)
    tables = [t for t in itertools.product(range(n + 1), repeat=bins) if sum(t) == n]
    law = stats.multinomial(n, [1 / bins] * bins)
    exact = sum(law.pmf(t) for t in tables if psi(flat, np.array(t)) > threshold)
    draws = run.budget(quick=4000, default=40_000)
    found = [psi(flat, t) > threshold for t in law.rvs(draws, random_state=rng)]
    why, error = "four standard errors of the draws", np.sqrt(exact * (1 - exact) / draws)
    counted = {"kind": "theorem", "atol": 4 * error, "why": why}
    by = "all tables of 12 values in 3 bins"
    run.check("PSI: alarm rate", np.mean(found), exact, against=by, **counted)


def check_energy(run: Run) -> None:
    """One dimension against scipy's; p against all ways to exchange labels."""
    rng = rng_of(run, 3)
    x, y = rng.normal(size=(5, 1)), rng.normal(1, size=(4, 1))
    between = distances(np.concatenate([x, y]))
    found, p = energy_test(between, 5, rng=rng, n_permutations=run.budget(quick=2000, default=9999))
    same = run.against("scipy.stats.energy_distance", atol=1e-12, why="float64 rounding")
    same("energy distance, its root", found**0.5, stats.energy_distance(x[:, 0], y[:, 0]))

    def statistic(a, b):
        return stats.energy_distance(a, b)

    every = stats.permutation_test((x[:, 0], y[:, 0]), statistic, alternative="greater")
    why = "four standard errors of the permutations"
    by = "scipy.stats.permutation_test, all 126 splits"
    run.check("energy distance: p-value", p, every.pvalue, against=by, atol=0.05, why=why)


# ---- false alarms


def folk_and_law(rng, n: int, shift: float, windows: int) -> tuple[float, float]:
    """How often PSI is above 0.1, and above what its law asks for; a reference of 10,000."""
    reference = rng.normal(size=10_000)
    edges = bin_edges(reference, BINS)
    expected = counts(reference, edges)
    found = [psi(expected, counts(rng.normal(shift, size=n), edges)) for _ in range(windows)]
    law = psi_threshold(10_000, n, BINS, level=LEVEL)
    return np.mean(np.array(found) > 0.1), np.mean(np.array(found) > law)


def judge_folk_threshold(run: Run) -> None:
    """PSI above 0.1: nothing moved and windows are small; something did and they are large."""
    seeds, windows = run.budget(quick=2, default=8), run.budget(quick=40, default=200)
    still = [folk_and_law(rng_of(run, 4, i), 100, 0.0, windows) for i in range(seeds)]
    moved = [folk_and_law(rng_of(run, 5, i), 10_000, 0.2, windows // 4) for i in range(seeds)]
    (folk, law), (blind, sees) = np.transpose(still), np.transpose(moved)
    seen = "by the law, 0.36 of them: P(χ² with 9 degrees > 9.9)"
    name = "PSI above 0.1 is a false alarm in a fifth of windows of 100 and more"
    run.claim(name, folk, at_least=0.2, unit="of windows", seen_before=seen, quick=False)
    run.falsifier("by the law's threshold", law, breaks=name)
    seen = "shifted by d, PSI of normal numbers is about d² = 0.04"
    name = "PSI above 0.1 misses a shift of 0.2 with 10,000 values"
    run.claim(name, blind, at_most=0.05, unit="of windows", seen_before=seen)
    run.falsifier("by the law's threshold, shifted", sees, breaks=name)
    sizes = [30, 100, 300, 1000, 3000, 10_000]
    with run.figure("psi", "What does the threshold 0.1 of PSI ask for?", columns=2) as axes:
        titles = ("nothing moved", "moved by 0.2 standard deviations")
        for ax, shift, title in zip(axes, (0.0, 0.2), titles, strict=True):
            few = windows // 4
            rates = [folk_and_law(rng_of(run, 6, n), n, shift, few) for n in sizes]
            lines = dict(zip(("PSI > 0.1", "PSI by its law"), np.transpose(rates), strict=True))
            labels = {"xlabel": "values in a window", "xscale": "log", "ylim": (-0.03, 1.03)}
            labels |= {"title": title, "ylabel": "share of windows with an alarm"}
            level = {"level 0.05": LEVEL} if shift == 0 else None
            plots.curves(ax, sizes, lines, marker="o", reference=level, ends=False, **labels)


def judge_levels(run: Run) -> None:
    """Each test on windows without drift: does it alarm as often as it says?"""
    seeds, windows = run.budget(quick=2, default=8), run.budget(quick=20, default=300)
    rates = {"KS": [], "PSI by its law": [], "energy": []}
    for i in range(seeds):
        rng, alarms = rng_of(run, 7, i), {name: [] for name in rates}
        for _ in range(windows):  # each with a reference of its own: independent of the others
            a, b = rng.gamma(2.0, size=400), rng.gamma(2.0, size=200)
            alarms["KS"].append(ks_p_value(ks_gap(a, b), 400, 200) <= LEVEL)
            edges = bin_edges(a, BINS)
            index = psi(counts(a, edges), counts(b, edges))
            alarms["PSI by its law"].append(index > psi_threshold(400, 200, BINS, level=LEVEL))
            between = distances(rng.normal(size=(60, 8)))
            _, p = energy_test(between, 40, rng=rng, n_permutations=99)
            alarms["energy"].append(p <= LEVEL)
        for name, found in alarms.items():
            rates[name].append(np.mean(found))
    options = {"at_least": 0.03, "at_most": 0.07, "unit": "of windows", "quick": False}
    for name, found in rates.items():
        run.claim(f"{name}: false alarms at the level of 0.05", found, **options)


def judge_windows(run: Run) -> None:
    """Streams of windows against one reference: at least one false alarm, by window."""
    seeds = run.budget(quick=2, default=8)
    streams, windows, n, m = run.budget(quick=10, default=60), 100, 500, 50
    naive, held = np.zeros((2, seeds, windows))
    for i in range(seeds):
        rng = rng_of(run, 8, i)
        p = np.array(
            [
                [ks_p_value(ks_gap(reference, rng.normal(size=m)), n, m) for _ in range(windows)]
                for reference in rng.normal(size=(streams, n))
            ]
        )
        levels = np.array([spent(LEVEL, k) for k in range(1, windows + 1)])
        for rows, level in ((naive, LEVEL), (held, levels)):
            rows[i] = np.maximum.accumulate(p <= level, axis=1).mean(0)
    name = "a level of 0.05 per window is an alarm in half of streams and more"
    run.claim(name, naive[:, -1], at_least=0.5, unit="of streams", note=f"{windows} windows")
    run.falsifier("the level spent window by window", held[:, -1], breaks=name)
    name = "a spent level keeps the rate in all windows together"
    run.claim(name, held[:, -1], at_most=0.07, unit="of streams", quick=False)
    for start in (1, 100):
        seen = [alarmed(rng_of(run, 9, i), start, n, m) for i in range(5 * seeds)]
        name = f"alarmed within {WITHIN} windows, drift of 0.5 from window {start}"
        run.metric(name, np.mean(seen), "of monitors", rtol=None)
    with run.figure("windows", "How often has a monitor cried wolf by now?") as axes:
        lines = {"0.05 per window": naive, "0.05 spent": held}
        labels = {"xlabel": "windows so far (50 values each, no drift)", "ylim": (-0.02, 1)}
        labels["ylabel"] = "share of streams with an alarm"
        plots.curves(axes, np.arange(1, windows + 1), lines, reference={"0.05": LEVEL}, **labels)


def alarmed(rng, start: int, n: int, m: int) -> bool:
    """Whether a monitor finds a drift that begins at window `start`, soon enough."""
    monitor = Monitor(rng.normal(size=(n, 1)), level=LEVEL)
    monitor.windows = start - 1
    return any(monitor.alarms(rng.normal(0.5, size=(m, 1))) for _ in range(WITHIN))
