"""Tables of pages, from the committed results: `python benchmarks/_tables.py` puts them in.

Each table stands in its page between `<!-- NAME -->` and `<!-- /NAME -->`; a test compares the two, so that no figure
in a page can part from the file it comes from.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Scripts, and what their comparisons leave out of their own names.
SCRIPTS = {
    "goal_throughput": "",
    "ppo_lag_end_to_end": "PPO-Lag, ",
    "update_step": "PPO-Lag, ",
    "second_order_step": "",
    "off_policy_step": "SAC-Lag, gradient steps, ",
    "seeds_together": "PPO-Lag, ",
    "sampler_throughput": "replies drawn, ",
    "supervised_step": "tokens learnt, ",
    "online_step": "tokens drawn and learnt, ",
    "startup": "",
}


def result(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def number(x: float) -> str:
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def speed() -> str:
    """A row per comparison that has a bar."""
    rows = ["| what | measured | bar | ceiling |", "|---|---|---|---|"]
    caveats = []
    for script, of in SCRIPTS.items():
        found = result(script)
        if found["not_accepted_because"]:
            caveats.append(f"`{script}`: {found['not_accepted_because']}")
        for c in found["comparisons"]:
            if c["at_least"] is None and c["at_most"] is None:
                continue
            unit = "x" if c["against"] else ""
            bar = (
                f"at least {number(c['at_least'])}{unit}"
                if c["at_least"] is not None
                else f"at most {number(c['at_most'])}"
            )
            met = "" if c["met"] else ", **missed**"
            rows.append(f"| {of}{c['what']} | {number(c['value'])}{unit} | {bar}{met} | {number(c['ceiling'])}{unit} |")
    if caveats:
        rows.append("\nNot a quiet machine's figures: " + "; ".join(caveats) + ".")
    return "\n".join(rows)


def demo() -> str:
    """How the example cycle ended, seed by seed."""
    found = result("cycle_success")
    low, high = found["interval_95"]
    head = (
        f"Over {found['seeds']} seeds of the example, {found['released']} ended in a release "
        f"(95 % interval of the rate: {low:.2f} to {high:.2f}):"
    )
    rows = [
        "| seed | rounds | decision | expected cost, last round | return | cost of the first round |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["per_seed"]:
        first, last = row["rounds"][0]["evidence"], row["rounds"][-1]["evidence"]
        cost, back = last["expected cost"], last["return"]
        rows.append(
            f"| {row['seed']} | {len(row['rounds'])} | {'release' if row['released'] else 'do not release'} "
            f"| {cost['value']:.1f}, at most {cost['high']:.1f} (n = {cost['n']}) | {back['value']:.1f} "
            f"| {first['expected cost']['value']:.1f} |"
        )
    return head + "\n\n" + "\n".join(rows)


def beside() -> str:
    """A row per comparison of language models that has no bar."""
    rows = ["| what | measured |", "|---|---|"]
    for script in ("supervised_step", "online_step"):
        rows += [
            f"| {SCRIPTS[script]}{c['what']} | {number(c['value'])}x |"
            for c in result(script)["comparisons"]
            if c["at_least"] is None and c["at_most"] is None and "loss" not in c["what"]
        ]
    return "\n".join(rows)


PAGES = {"README.md": {"demo": demo, "speed": speed}, "docs/language.md": {"beside": beside}}


def filled(page: str, text: str) -> str:
    """A page with every table as the results have it."""
    for name, table in PAGES[page].items():
        block = f"<!-- {name} -->\n{table()}\n<!-- /{name} -->"
        text, found = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.S)
        if found != 1:
            raise SystemExit(f"{page} has {found} places for the table {name!r}; it should have one.")
    return text


if __name__ == "__main__":
    for page in PAGES:
        path = HERE.parent / page
        path.write_text(filled(page, path.read_text()))
