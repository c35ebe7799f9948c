"""Comparisons beside the primary ones: listed before a claim is tested, and corrected together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from trueline.core.config import build
from trueline.evidence.claims import ClaimResult, Rows
from trueline.evidence.over_seeds import Comparison, compare_seeds, holm
from trueline.language.claims.seq2seq.laboratory import OUTSIDE, PER_TOKEN, PLAIN, RULES, Sizes
from trueline.language.claims.seq2seq.policies import ARMS, OTHERS

__all__ = ["SECONDARIES", "Compared", "Secondary", "compared", "secondaries"]


class Secondary(NamedTuple):
    """Two numbers of a row, compared over seeds; a seed's are paired, since both met the same pairs or prompts."""

    says: str
    a: str
    b: str


class Compared(NamedTuple):
    """What came out of one."""

    secondary: Secondary
    comparison: Comparison  # of a less b
    p_holm: float  # among all that were compared with it


def compared(rows: Rows, listed: Sequence[Secondary], confidence: float = 0.95) -> list[Compared]:
    """Every comparison over seeds, corrected together by Holm.

    Seeds in which either number is nan are left out of that comparison. Fewer than eight give points only.
    """
    found = []
    for one in listed:
        kept = [row for row in rows if math.isfinite(row[one.a]) and math.isfinite(row[one.b])]
        a, b = ([row[name] for row in kept] for name in (one.a, one.b))
        found.append(compare_seeds(a, b, paired=True, confidence=confidence))
    adjusted = holm([comparison.p for comparison in found])
    return [Compared(*each) for each in zip(listed, found, map(float, adjusted), strict=True)]


def secondaries(result: ClaimResult) -> list[Compared]:
    """The comparisons that were listed before the run, of a result of one of these claims; [] of one not attempted."""
    listed = SECONDARIES[result.name](build(Sizes, result.params))
    return compared(list(result.per_seed.values()), list(listed)) if result.per_seed else []


def _of_models(sizes: Sizes) -> Iterator[Secondary]:
    few = min(sizes.pairs)
    for n in sizes.pairs:
        for start in ("sft", "scratch"):
            at, scalar = f"{n} pairs, {start}", f"accuracy/{n}/{start}/scalar"
            for rule in ("hard", "soft"):
                if (n, start, rule) != (few, "sft", "hard"):
                    ours = f"accuracy/{n}/{start}/seq2seq-{rule}"
                    yield Secondary(f"the {rule} rule orders more pairs than the scalar model: {at}", ours, scalar)
            theirs = f"accuracy/{n}/{start}/token-wise"
            yield Secondary(f"comparing token by token orders more pairs than the ends alone: {at}", theirs, scalar)
        for rule in ("hard", "soft"):
            ours = f"localisation/{n}/sft/seq2seq-{rule}"
            for rival in ("scalar", "token-wise"):
                theirs = f"localisation/{n}/sft/{rival}"
                yield Secondary(f"the {rule} rule blames wrong words better than {rival}: {n} pairs", ours, theirs)
        for part in (*OUTSIDE, "truncated", "empty"):
            names = (f"accuracy-{part}/{n}/sft/{name}" for name in ("seq2seq-hard", "scalar"))
            yield Secondary(f"the hard rule orders more pairs than the scalar model, {part}: {n} pairs", *names)


def _of_policies(sizes: Sizes) -> Iterator[Secondary]:  # noqa: ARG001
    for name in ARMS:
        if name != "scalar":
            for where in (PLAIN, *OUTSIDE):
                names = (f"gold-{where}/{arm}" for arm in (name, "scalar"))
                yield Secondary(f"{name} is worth more than scalar: {where} prompts", *names)
    for name in (*ARMS, *OTHERS):
        names = (f"gold-{PLAIN}/{one}" for one in (name, "start"))
        yield Secondary(f"{name} is worth more than its start", *names)
    names = (f"gold-{PLAIN}/{arm}" for arm in ("seq2seq-total", "seq2seq"))
    yield Secondary("total credit is worth more than what follows alone", *names)
    for name in OTHERS:
        names = (f"gold-{PLAIN}/{arm}" for arm in ("seq2seq", name))
        yield Secondary(f"seq2seq is worth more than {name}", *names)


def _of_length(sizes: Sizes) -> Iterator[Secondary]:
    yield from _of_policies(sizes)
    for name in ARMS:
        if name != "scalar":
            for part in ("filler", "refused"):
                if (part, name) != ("filler", "seq2seq"):
                    names = (f"{part}-{PLAIN}/{arm}" for arm in ("scalar", name))
                    yield Secondary(f"scalar has more of {part} than {name}", *names)
    for name in ("token-wise", *RULES, *PER_TOKEN):
        yield Secondary(f"scalar pays more for filler than {name}", "length-slope/scalar", f"length-slope/{name}")


SECONDARIES: Mapping[str, Callable[[Sizes], Iterator[Secondary]]] = {
    "accuracy": _of_models,
    "policy": _of_policies,
    "length": _of_length,
}
