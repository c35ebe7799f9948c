"""Fills docs/claims.md, its figures and the count in README.md: `python docs/make_claims_page.py [--take RUNS]`.

All of it comes from the committed results.

With --take, finished claims among the runs of that folder are first copied to docs/results/claims, those of one system
and scale corrected together, and what shared trainings came to to docs/results/trainings. A test compares page, figures
and results with the registry and with one another.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import stdev

from trueline.core.files import write_bytes, write_text
from trueline.cycle.reproduction import claims_of
from trueline.evidence.claims import Claim, ClaimResult, corrected
from trueline.evidence.over_seeds import seed_interval
from trueline.evidence.plots import standalone
from trueline.evidence.words import interval, number
from trueline.language.claims.figures import drawn
from trueline.safety.claims.arms import together
from trueline.safety.claims.figures import costs
from trueline.safety.claims.published import beside, table
from trueline.safety.claims.trainings import KEPT

HERE = Path(__file__).parent
PAGE, README = HERE / "claims.md", HERE.parent / "README.md"
RESULTS = HERE / "results" / "claims"
TRAININGS = HERE / "results" / KEPT
FIGURES = HERE / "claims"
DECIDING = 8  # seeds: a scale with fewer decides nothing

_READINGS = ("scalar", "token-wise", "seq2seq-hard", "seq2seq-soft")
_POLICIES = (
    "start",
    "scalar",
    "token-wise",
    "seq2seq",
    "seq2seq-total",
    "seq2seq-soft",
    "dpo",
    "best-of",
    "best-of-seq2seq",
)
_PAIRS = (250, 1000, 4000)

# What stands beside the number that decides, by the name a claim is listed under.
_ELSEWHERE = tuple(f"accuracy-{pairs}" for pairs in ("combined", "longer", "truncated", "empty"))
_PROMPTS = ("plain", "combined", "longer")
BESIDE: dict[str, tuple[str, ...]] = {
    "safe-rlhf": (
        *("harm/start", "harm/ppo", "harm/ppo-lag"),
        *("harmless help/start", "harmless help/ppo", "harmless help/ppo-lag"),
        *("predicted harm/ppo-lag", "unnoticed/ppo-lag", "harmless refused/ppo-lag", "broken", "kept", "helped"),
        "multiplier/harm",
    ),
    "elasticity": (
        *("trend, positive", "trend, negative", "trend of half the way", "trend of half the way, neutral"),
        *("trend of items away", "trend per nat"),
        *(f"items back, positive, {n} documents" for n in (1000, 4000, 16000, 64000)),
    ),
    "resistance": ("excess", "raw", "inverse raw is lower", "inverse excess is lower"),
    "seq2seq-rm-accuracy": (
        *(f"accuracy/{n}/sft/{name}" for n in (300, 1500) for name in _READINGS),
        *(f"accuracy/{n}/scratch/{name}" for n in (300, 1500) for name in _READINGS),
        *(f"{part}/1500/sft/{name}" for part in ("localisation", *_ELSEWHERE) for name in _READINGS),
        *(f"agreement-{prompts}/1500/sft/{reply}" for prompts in _PROMPTS for reply in ("chosen", "rejected")),
    ),
    "seq2seq-rm-length": (
        *(f"{part}/{name}" for part in ("filler-plain", "refused-plain", "gold-plain") for name in _POLICIES),
        *(f"length-slope/{name}" for name in (*_READINGS, "seq2seq-hard-mean", "seq2seq-soft-mean")),
    ),
    "seq2seq-rm-policy": (
        *(f"win-plain/{name}/scalar" for name in _POLICIES if name not in ("start", "scalar")),
        *(f"gold-plain/{name}" for name in _POLICIES),
    ),
}
BESIDE |= {
    f"tree-rm-{name}": (
        *(
            f"{level}/{n}/{arm}/disagreement"
            for level in ("simple", "complex")
            for n in _PAIRS
            for arm in ("tree", control)
        ),
        *(
            f"complex/{n}/{arm}/{part}"
            for part in ("variance", "accuracy")
            for n in _PAIRS
            for arm in ("tree", control)
        ),
        *(f"complex/{_PAIRS[0]}/{arm}/tokens" for arm in ("tree", control)),
    )
    for name, control in (("structure", "independent-trees"), ("labels", "chain-labels"), ("tokens", "chain-tokens"))
}
# Where seeds end in different ways, which a mean over them hides.
BY_SEED: dict[str, tuple[str, ...]] = {
    "safe-rlhf": (
        *("multiplier/harm", "predicted harm/ppo-lag", "harm/ppo-lag", "unnoticed/ppo-lag"),
        *("harmless refused/ppo-lag", "kept", "helped"),
    ),
    "seq2seq-rm-length": (
        *("refused-plain/scalar", "filler-plain/scalar", "refused-plain/seq2seq", "filler-plain/seq2seq"),
        *("gold-plain/scalar", "gold-plain/seq2seq"),
    ),
}


def results(folder: Path = RESULTS) -> list[ClaimResult]:
    """The committed results of enough seeds for a verdict, by system, scale and name."""
    return [result for result in measured(folder) if _decides(result)]


def measured(folder: Path = RESULTS) -> list[ClaimResult]:
    """All committed results: those of few seeds stand beside published rows and decide nothing."""
    found = [ClaimResult.from_json(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(found, key=lambda result: (result.system, result.scale, result.name))


def take(runs: Path) -> None:
    """Copies what claims and trainings of these runs came to; a result of the same claim and scale is replaced."""
    TRAININGS.mkdir(exist_ok=True)
    for path in sorted(runs.glob(f"{KEPT}/*.json")):
        write_bytes(TRAININGS / path.name, path.read_bytes())
    kept = {_key(result): result for result in measured()}
    for path in sorted(runs.glob("*/artefacts/claim.json")):
        result = ClaimResult.from_json(path.read_text(encoding="utf-8"))
        if result.estimate is not None and (_decides(result) or result.scale == "published"):
            kept[_key(result)] = result
    claims = [named.claim for named in claims_of()]
    ordered = sorted(kept.values(), key=lambda result: (result.system, result.scale, result.name))
    for (system, scale), family in groupby(ordered, key=lambda result: (result.system, result.scale)):
        own = list(family)
        every = sum(claim.system == system and scale in claim.scales for claim in claims)
        for result in corrected(own, others=every - len(own)):
            write_text(RESULTS / f"{_slug(result)}.json", result.to_json())


def _key(result: ClaimResult) -> tuple[str, str, str]:
    return result.system, result.name, result.scale


def _decides(result: ClaimResult) -> bool:
    return len(result.per_seed) >= DECIDING


def _slug(result: ClaimResult) -> str:
    return f"{registered()[result.system, result.name]}.{result.scale}"


def registered() -> dict[tuple[str, str], str]:
    """(system, name) -> the name a claim is listed under."""
    return {(named.claim.system, named.claim.name): named.name for named in claims_of()}


# --- the page ---

_OWN = "a statement about our own trainings"  # how the source of what no paper claims begins


def tally() -> str:
    """How many claims were tested, and what they came to."""
    found = results()
    counts = Counter(str(result.outcome) for result in found)
    own = sum(result.source.startswith(_OWN) for result in found)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("reproduced", "not reproduced", "inconclusive"))
    return f"Of {len(found)} claims tested, {own} of them statements of ours about our own trainings: {said}."


def verdicts() -> str:
    """A line per committed result."""
    lines = [
        "| claim | what was asked | scale, seeds | found (interval) | required | p, by Holm | outcome |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results():
        estimate = result.estimate
        assert estimate is not None
        cells = (
            f"`{registered()[result.system, result.name]}`",
            result.sentence + (" (ours)" if result.source.startswith(_OWN) else ""),
            f"{result.scale}, {len(result.per_seed)}",
            estimate.words(),
            result.acceptance.words(result.unit),
            "–" if result.p_holm is None else f"{result.p_holm:.2g}",
            f"**{result.outcome}**" + (f" ({result.note})" if result.note else ""),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures() -> str:
    """Every figure with what it shows."""
    return "\n\n".join(f"![{words}](claims/{name}.svg)" for name, (words, _) in charts().items())


def numbers() -> str:
    """Means over seeds of what stands beside the number that decides, each with its interval and its deviation."""
    lines = ["| claim | number | mean over seeds | interval | deviation |", "|---|---|---|---|---|"]
    for result in results():
        name = registered()[result.system, result.name]
        for key in BESIDE.get(name, ()):
            given = [row[key] for row in result.per_seed.values()]
            values = [x for x in given if math.isfinite(x)]
            few = "" if len(values) == len(given) else f" ({len(values)} of {len(given)} seeds)"
            found = seed_interval(values, result.acceptance.interval_confidence())
            ends = interval(found.low, found.high)
            lines.append(f"| `{name}` | {key}{few} | {number(found.value)} | {ends} | {number(stdev(values))} |")
    return "\n".join(lines)


def seeds() -> str:
    """Some numbers of every seed, where seeds end in different ways."""
    tables = []
    for result in results():
        columns = BY_SEED.get(registered()[result.system, result.name])
        if columns:
            lines = [f"| `{registered()[result.system, result.name]}`, seed | {' | '.join(columns)} |"]
            lines.append("|---" * (1 + len(columns)) + "|")
            for seed, row in result.per_seed.items():
                lines.append(f"| {seed} | {' | '.join(number(row[key]) for key in columns)} |")
            tables.append("\n".join(lines))
    return "\n\n".join(tables)


def charts() -> dict[str, tuple[str, str]]:
    """File name without its end -> words, and the SVG: one per claim of language, one per world of trained arms."""
    found: dict[str, tuple[str, str]] = {}
    for (system, scale), family in groupby(results(), key=lambda result: (result.system, result.scale)):
        of_worlds: dict[str, list[ClaimResult]] = {}
        for result in family:
            if "arms" in result.params and "world" in result.params:
                of_worlds.setdefault(str(result.params["world"]), []).append(result)
            else:
                found[_slug(result)] = (result.sentence, standalone(drawn(result)))
        for world, own in of_worlds.items():
            words = f"Cost of the policies of {system} in {world}, limit 25"
            found[f"{system}-{world}.{scale}"] = (words, standalone(costs(own)))
    return found


def published() -> str:
    """Our arms beside the published rows, which decide nothing."""
    return table(beside(result for result in measured() if "arms" in result.params and "world" in result.params))


def open_claims() -> str:
    """What was not attempted, system by system, with what it takes."""
    lines = ["| system | claims | scale | CPU-hours, shared trainings counted once |", "|---|---|---|---|"]
    done = [(_key(result), result.cpu_hours) for result in measured()]
    listed = sorted(claims_of(), key=lambda one: one.claim.system)
    for system, named in groupby(listed, key=lambda one: one.claim.system):
        left: dict[str, list[Claim]] = {}
        for claim in (one.claim for one in named):
            most = max((hours for key, hours in done if key[:2] == (system, claim.name)), default=0.0)
            for scale, size in claim.scales.items():
                if scale != "ci" and size.cpu_hours > most:
                    left.setdefault(scale, []).append(claim)
        lines += [f"| {system} | {len(own)} | {scale} | {_hours(own, scale):.1f} |" for scale, own in left.items()]
    return "\n".join(lines)


def _hours(claims: Sequence[Claim], scale: str) -> float:
    sizes = [claim.scales[scale] for claim in claims]
    shared = all({"world", "arms", "steps", "episodes"} <= size.params.keys() for size in sizes)
    return together(claims, scale) if shared else sum(size.cpu_hours for size in sizes)


TABLES = {
    "tally": tally,
    "verdicts": verdicts,
    "figures": figures,
    "numbers": numbers,
    "seeds": seeds,
    "published": published,
    "open": open_claims,
}


def filled(text: str) -> str:
    """A page with its tables."""
    for name, table_of in TABLES.items():
        block = f"<!-- {name} -->\n{table_of()}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def main() -> None:
    """Takes results if asked to, draws the figures, fills the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--take", type=Path, metavar="RUNS", help="folder of runs whose finished claims are copied")
    given = parser.parse_args()
    if given.take:
        take(given.take)
    for old in FIGURES.glob("*.svg"):
        old.unlink()
    for name, (_, chart) in charts().items():
        write_text(FIGURES / f"{name}.svg", chart)
    for page in (PAGE, README):
        write_text(page, filled(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
