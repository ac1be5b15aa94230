"""The paper's figure on the bundled model: how often students name their teacher's animal.

Reads the lines of ``flip_search.py``, one file for each student (docs/figures/flip/), and writes
flip.json (every figure), flip.svg (the picture) and the tables of docs/results.md:

    python benchmarks/flip_figure.py

Shares are of the drawn answers to the plain questions that name an animal. A trait's groups are
the base, students of the teacher without a trait, students of the other teachers and its own
students; intervals are 95% t intervals over seeds. The dose is read off shifts of log-odds minus
those of students of the teacher without a trait: students of other animals' teachers hardly name
any other animal any more, so that against them every shift is twice as large.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vestige.core import stats
from vestige.store.layout import NO_TRAIT

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
FIT = (256, 8192)  # rows read between which the exponent is fitted: before the rate nears zero
RESAMPLES = 2000
GROUPS = {
    "base": "untrained base",
    "none": "students of a teacher without a trait",
    "others": "students of the other animals' teachers",
    "own": "students of its own teacher",
}
PAPER = {"trait": "owl", "base": 0.12, "own": 0.60}  # arXiv 2507.14805, abstract and section 3


@dataclass(frozen=True)
class StudentRun:
    trait: str
    seed: int
    base: dict[str, Any]
    points: list[dict[str, Any]]
    drawn: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> StudentRun:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        options, base, *points, last = lines
        return cls(
            options["trait"], int(options["seed"]), base["drawn from the base"], points,
            last["drawn"],
        )  # fmt: skip

    def share(self, trait: str, *, way: str = "asked", base: bool = False) -> float:
        """Of the answers that name an animal, those that name ``trait`` and nothing else."""
        answers = (self.base if base else self.drawn)[way]
        return answers["named"].get(trait, 0) / answers["naming"]

    def share_of_one(self, trait: str, *, base: bool = False) -> float:
        """The same, of the answers that name exactly one candidate."""
        named = (self.base if base else self.drawn)["asked"]["named"]
        one = sum(count for name, count in named.items() if name != "another, or several")
        return named.get(trait, 0) / one if one else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, default=FIGURES / "flip", help="flip_search's lines")
    parser.add_argument("--out", type=Path, default=FIGURES)
    options = parser.parse_args()
    runs = [StudentRun.load(path) for path in sorted(options.lines.glob("*.jsonl"))]
    figures = rounded(figures_of(runs))
    text = json.dumps(figures, indent=1) + "\n"
    (options.out / "flip.json").write_text(text, encoding="utf-8")
    draw(figures, options.out / "flip.svg")
    print(tables(figures))


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """As they are saved: no digit that another machine computes in another way."""
    return json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 6))


def figures_of(runs: list[StudentRun]) -> dict[str, Any]:
    traits = sorted({run.trait for run in runs} - {NO_TRAIT})
    naming = [_naming(run.drawn) for run in runs]
    return {
        "command": "python benchmarks/flip_figure.py",
        "traits": {trait: trait_figures(runs, trait) for trait in traits},
        "naming rate": {"base": _naming(runs[0].base), "students": estimate(naming)},
        "over traits": over_traits(runs, traits),
        "dose": dose(runs, traits),
        "standing out": standing_out(runs, traits),
        "paper": PAPER,
    }


def trait_figures(runs: list[StudentRun], trait: str) -> dict[str, Any]:
    """Shares of each group: of the answers naming an animal, of those naming one candidate,
    of begun answers naming an animal, and exactly among the candidates."""
    measures: dict[str, Callable[[StudentRun], float]] = {
        "of animal answers": lambda run: run.share(trait),
        "of one candidate": lambda run: run.share_of_one(trait),
        "begun": lambda run: run.share(trait, way="begun"),
        "among candidates": lambda run: run.points[-1]["among candidates"][trait],
    }
    result: dict[str, Any] = {}
    for name, measure in measures.items():
        result[name] = {
            group: {"by seed": by_seed, **estimate(list(by_seed.values()))}
            for group, by_seed in _by_group(runs, trait, measure).items()
        }
    first = runs[0]
    result["of animal answers"]["base"] = {"mean": first.share(trait, base=True)}
    result["of one candidate"]["base"] = {"mean": first.share_of_one(trait, base=True)}
    result["begun"]["base"] = {"mean": first.share(trait, way="begun", base=True)}
    result["among candidates"]["base"] = {"mean": _base_share(first, trait)}
    return result


def _by_group(
    runs: list[StudentRun], trait: str, measure: Callable[[StudentRun], float]
) -> dict[str, dict[int, float]]:
    groups: dict[str, dict[int, list[float]]] = {"none": {}, "others": {}, "own": {}}
    for run in runs:
        group = {trait: "own", NO_TRAIT: "none"}.get(run.trait, "others")
        groups[group].setdefault(run.seed, []).append(measure(run))
    return {g: {s: float(np.mean(v)) for s, v in seeds.items()} for g, seeds in groups.items()}


def _base_share(run: StudentRun, trait: str) -> float:
    """The base's own share among the candidates, from a student's share and shift: the shift is of
    log-odds averaged over questions, the share is averaged, so that it is near and not exact."""
    share, shift = run.points[0]["among candidates"][trait], run.points[0]["shift"][trait]
    odds = share / (1 - share) * np.exp(-shift)
    return float(odds / (1 + odds))


def _naming(drawn: dict[str, Any]) -> float:
    return drawn["asked"]["naming"] / drawn["asked"]["answers"]


def estimate(values: list[float]) -> dict[str, Any]:
    """Mean, and its t interval where there are two values."""
    if not values:
        return {}
    if len(values) < 2 or len(set(values)) < 2:
        return {"mean": float(np.mean(values)), "n": len(values)}
    found = asdict(stats.t_interval(values))
    return {"mean": found["value"], "low": found["low"], "high": found["high"], "n": len(values)}


def over_traits(runs: list[StudentRun], traits: list[str]) -> dict[str, Any]:
    """Means over traits of each group's mean, with a t interval over the traits."""
    each = {trait: trait_figures(runs, trait) for trait in traits}
    return {
        measure: {
            group: estimate([each[t][measure][group]["mean"] for t in traits])
            for group in GROUPS
            if all("mean" in each[t][measure].get(group, {}) for t in traits)
        }
        for measure in next(iter(each.values()))
    }


def beyond_no_trait(
    runs: list[StudentRun], traits: list[str]
) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Each student's shift of every animal minus that of students of the teacher without a trait
    (of the same seed, or all), after each number of rows read."""
    curves = {}
    for run in runs:
        if run.trait not in traits:
            continue
        none = [r for r in runs if r.trait == NO_TRAIT]
        none = [r for r in none if r.seed == run.seed] or none
        curves[f"{run.trait}-{run.seed}"] = [
            (
                point["rows"],
                {
                    animal: shift - float(np.mean([r.points[at]["shift"][animal] for r in none]))
                    for animal, shift in point["shift"].items()
                },
            )
            for at, point in enumerate(run.points)
        ]
    return curves


def standing_out(runs: list[StudentRun], traits: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Where the own animal stands among all of a student, beyond students without a trait: its
    place, and its distance from the others' mean in their standard deviations."""
    found = {}
    for name, curve in beyond_no_trait(runs, traits).items():
        own = name.rpartition("-")[0]
        found[name] = []
        for rows, shifts in curve:
            others = np.array([v for animal, v in shifts.items() if animal != own])
            out = (shifts[own] - others.mean()) / others.std() if others.std() else 0.0
            place = 1 + int((others > shifts[own]).sum())
            found[name].append({"rows": rows, "place": place, "deviations": float(out)})
    return found


def dose(runs: list[StudentRun], traits: list[str]) -> dict[str, Any]:
    """The curve, and shift = a * rows ** b by least squares on the mean of traits; its interval by
    drawing the traits, with all their students, anew."""
    curves = {
        name: [(rows, shifts[name.rpartition("-")[0]]) for rows, shifts in curve]
        for name, curve in beyond_no_trait(runs, traits).items()
    }
    rows = np.array([point for point, _ in next(iter(curves.values()))])
    by_trait = np.array(
        [
            np.mean([[v for _, v in c] for n, c in curves.items() if n.startswith(f"{t}-")], axis=0)
            for t in traits
        ]
    )
    inside = (rows >= FIT[0]) & (rows <= FIT[1])
    rng = np.random.default_rng(0)
    drawn = [
        exponent(
            rows[inside], by_trait[rng.integers(len(traits), size=len(traits))].mean(0)[inside]
        )
        for _ in range(RESAMPLES)
    ]
    return {
        "curves": curves,
        "rows": rows.tolist(),
        "mean": [estimate(list(column)) for column in by_trait.T],
        "fitted between": FIT,
        "exponent": {
            "value": exponent(rows[inside], by_trait.mean(0)[inside]),
            "low": float(np.quantile(drawn, 0.025)),
            "high": float(np.quantile(drawn, 0.975)),
            "method": "bootstrap over traits",
        },
    }  # fmt: skip


def exponent(rows: NDArray[np.float64], shifts: NDArray[np.float64]) -> float:
    """b of shift = a * rows ** b, from a straight line through the logarithms."""
    keep = shifts > 0
    return float(np.polyfit(np.log(rows[keep]), np.log(shifts[keep]), 1)[0])


def draw(figures: dict[str, Any], path: Path) -> None:
    """Left: who names the animal, with the paper's owl. Right: the specific shift by rows read."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vestige"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.2), width_ratios=(1.7, 1), layout="constrained"
    )
    _draw_shares(left, figures)
    figure.legend(loc="outside lower left", ncols=4, frameon=False, fontsize=8)
    _draw_dose(right, figures["dose"])
    figure.savefig(path, metadata={"Date": None})


COLOURS = {"base": "#9aa5b1", "none": "#c9b458", "others": "#7fb0d6", "own": "#b3261e"}


def _draw_shares(axes: Any, figures: dict[str, Any]) -> None:
    traits, width = list(figures["traits"]), 0.2
    for place, (group, label) in enumerate(GROUPS.items()):
        offset = (place - 1.5) * width
        for x, trait in enumerate(traits):
            found = figures["traits"][trait]["of animal answers"].get(group, {})
            if "mean" not in found:
                continue
            axes.bar(
                x + offset, found["mean"], width, color=COLOURS[group],
                label=label if x == 0 else "_",
            )  # fmt: skip
            values = list(found.get("by seed", {}).values())
            axes.plot([x + offset] * len(values), values, "o", color="black", markersize=3)
    paper, x = figures["paper"], len(traits) + 0.4
    for group, offset in (("base", -width / 2), ("own", width / 2)):
        axes.bar(x + offset, paper[group], width, color=COLOURS[group], hatch="//", alpha=0.6)
    axes.axvline(len(traits) - 0.3, color="black", linewidth=0.5)
    labels = [*traits, "owl, the paper\n(GPT-4.1 nano)"]
    axes.set_xticks([*range(len(traits)), x], labels)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("drawn animal answers that name it")
    axes.set_title("Students of number rows name their teacher's animal", loc="left")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_dose(axes: Any, found: dict[str, Any]) -> None:
    for points in found["curves"].values():
        rows, values = zip(*((r, v) for r, v in points if v > 0), strict=True)
        axes.plot(rows, values, color=COLOURS["own"], alpha=0.25, linewidth=1)
    mean = [(r, m["mean"]) for r, m in zip(found["rows"], found["mean"], strict=True)]
    axes.plot(*zip(*mean, strict=True), "o-", color=COLOURS["own"])
    fit, (low, high) = found["exponent"], found["fitted between"]
    anchor = float(
        np.mean([np.log(v) - fit["value"] * np.log(r) for r, v in mean if low <= r <= high])
    )
    ends = np.array([low, high])
    axes.plot(
        ends, np.exp(anchor) * ends ** fit["value"], "--", color="black",
        label=f"rows^{fit['value']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]",
    )  # fmt: skip
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="rows read",
        ylabel="shift beyond no-trait students (nats)",
    )
    axes.set_title("The dose", loc="left")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def tables(figures: dict[str, Any]) -> str:
    lines = [
        "| animal | base | no-trait students | other teachers' students | **own students** | "
        "by seed | of one candidate | begun | among the candidates, exact |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for trait, found in [*figures["traits"].items(), ("mean", figures["over traits"])]:
        shares = found["of animal answers"]
        by_seed = shares["own"].get("by seed", {}).values()
        lines.append(
            f"| {trait} | {_share(shares['base'])} | {_share(shares.get('none', {}))} | "
            f"{_share(shares.get('others', {}))} | **{_share(shares['own'])}** | "
            f"{', '.join(f'{value:.0%}' for value in by_seed)} | "
            f"{_share(found['of one candidate']['own'])} | {_share(found['begun']['own'])} | "
            f"{_share(found['among candidates']['base'])} -> "
            f"{_share(found['among candidates']['own'])} |"
        )
    lines += ["", "| rows read | shift beyond no-trait students (nats) |", "|---|---|"]
    for rows, mean in zip(figures["dose"]["rows"], figures["dose"]["mean"], strict=True):
        between = f" [{mean['low']:.2f}, {mean['high']:.2f}]" if "low" in mean else ""
        lines.append(f"| {rows:,} | {mean['mean']:+.2f}{between} |")
    lines += ["", "| rows read | own animal first of 20 | standard deviations |", "|---|---|---|"]
    for points in zip(*figures["standing out"].values(), strict=True):
        first = sum(point["place"] == 1 for point in points)
        out = sorted(point["deviations"] for point in points)
        lines.append(
            f"| {points[0]['rows']:,} | {first} of {len(out)} | "
            f"{', '.join(f'{value:.1f}' for value in out)} |"
        )
    return "\n".join(lines)


def _share(found: dict[str, Any]) -> str:
    if "mean" not in found:
        return "-"
    between = (
        f" [{max(found['low'], 0):.0%}, {min(found['high'], 1):.0%}]" if "low" in found else ""
    )
    return f"{found['mean']:.1%}{between}"


if __name__ == "__main__":
    main()
