"""One update of TRPO-Lag and of CPO at OmniSafe's sizes: ours, OmniSafe's, and the floor of the matrix products."""

from __future__ import annotations

import itertools
import resource
import tempfile
from typing import TYPE_CHECKING

import _interleave
import _peers as peers
import update_step
from _interleave import Comparison, Contestant, Medians, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ROWS, QUICK_ROWS = 20_000, 4_000  # of a collection
PASSES, MINIBATCH, CRITICS = 10, 128, 2  # of the critics, one of the reward and one of the cost
CG_ITERS, DELTA, SHRINK = 15, 0.01, 0.8
LIMIT, COST, EPISODE = 25.0, 20.0, 1000  # the limit holds: where it does not, CPO's products are the same
MULTIPLIER = 0.001  # λ₀ of TRPO-Lag
BLOCK = 2048  # rows whose hidden layers stay in a core's cache
SIDES = {"TRPO-Lag": 1, "CPO": 2}  # gradients that H⁻¹ is multiplied with: of the reward, and of the cost


def peak_bytes() -> int:
    """The most memory that this process has had, with all that it imported."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts it in KiB


# -- ours -------------------------------------------------------------------------------------------------------------


def ours(method: str, rows: int):
    import torch

    from trueline.rl.handlers.constraint import mix, normalised
    from trueline.rl.updates.cpo import Cpo
    from trueline.rl.updates.natural import Trpo
    from trueline.rl.updates.rows import Rows, SlackAdvantage

    torch.set_num_threads(1)
    kind = {"TRPO-Lag": Trpo, "CPO": Cpo}[method]
    update = kind(target_kl=DELTA, cg_iters=CG_ITERS, passes=PASSES, minibatch=MINIBATCH, search_shrink=SHRINK)
    network, rng = update_step.our_network(), torch.Generator().manual_seed(0)
    adam, start = update.optimiser(network), {name: p.clone() for name, p in network.state_dict().items()}

    def batch(rows: int):
        noise = update_step.random_batch(rows)
        cost = noise["target_c"][:, None]
        advantage = SlackAdvantage(noise["advantage"], cost, torch.tensor([(COST - LIMIT) / EPISODE]))
        if method == "TRPO-Lag":
            weights = normalised(torch.tensor([MULTIPLIER], dtype=torch.float64))
            advantage = mix(noise["advantage"], cost, weights)
        with torch.no_grad():
            inputs = network.encoder.normalised({"vector": noise["obs"]})
            policy = network.policy(network.encoder(inputs)).detach()
        target = torch.stack([noise["target_r"], noise["target_c"]], dim=-1)
        return Rows(inputs, noise["draw"], noise["log_prob"], policy, advantage, target)

    update.learn(network, adam, batch(10 * MINIBATCH), 0.0, rng)
    collection = batch(rows)

    def fresh():
        network.load_state_dict(start)  # every sample makes the same step

        def job():
            report = update.learn(network, adam, collection, 0.0, rng)
            return {"work": 1, "fraction": report.fraction, "peak_bytes": peak_bytes()}

        return job

    return fresh


# -- OmniSafe's own ---------------------------------------------------------------------------------------------------


def omnisafe(method: str, rows: int):
    """The update of OmniSafe's own class, its buffer's content replaced by the same noise, an episode in its log."""
    settings = {
        "train_cfgs": {"total_steps": rows, "torch_threads": 1, "vector_env_nums": 1},
        "algo_cfgs": {"steps_per_epoch": rows},
        "logger_cfgs": {"log_dir": tempfile.mkdtemp(dir=".")},  # in the referee's temporary folder
    }
    name = method.replace("-", "")
    algorithm = peers.omnisafe().Agent(name, "SafetyPointGoal1-v0", custom_cfgs=settings).agent
    actor = algorithm._actor_critic.actor
    start = {name: p.clone() for name, p in actor.state_dict().items()}

    def give(rows: int) -> None:
        batch = update_step.random_batch(rows)
        names = {"obs": "obs", "act": "draw", "logp": "log_prob", "adv_r": "advantage", "adv_c": "target_c"}
        names |= {"target_value_r": "target_r", "target_value_c": "target_c"}
        content = {theirs: batch[ours] for theirs, ours in names.items()}
        algorithm._buf.get = lambda: content

    algorithm._logger.store({"Metrics/EpCost": COST, "Metrics/EpRet": 1.0, "Metrics/EpLen": float(EPISODE)})
    give(10 * MINIBATCH)
    algorithm._update()
    give(rows)

    def fresh():
        actor.load_state_dict(start)

        def job():
            algorithm._update()
            tries = algorithm._logger._data["Misc/AcceptanceStep"][-1]
            return {"work": 1, "fraction": SHRINK ** (tries - 1), "peak_bytes": peak_bytes()}

        return job

    return fresh


# -- the floor: what no implementation can leave out ------------------------------------------------------------------


def forward(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """The inputs of each layer [B, in] and the output, of layers without an activation: weights [in, out]."""
    values = [x]
    for weight in weights:
        values.append(values[-1] @ weight)
    return values


def push(values: Sequence[Tensor], weights: Sequence[Tensor], turns: Sequence[Tensor]) -> Tensor:
    """J v, for R directions at once: turns [in, R, out] -> [B, R, outputs]."""
    tangent = None
    for h, weight, turn in zip(values, weights, turns, strict=False):
        moved = (h @ turn.flatten(1)).view(-1, weight.shape[1])  # [B·R, out]
        tangent = moved if tangent is None else moved.addmm_(tangent, weight)
    return tangent.view(len(values[0]), turns[0].shape[1], -1)


def pull(values: Sequence[Tensor], weights: Sequence[Tensor], outward: Tensor) -> list[Tensor]:
    """Jᵀu: [B, R, outputs] -> gradients [in, R, out] of each layer."""
    rows, sides, _ = outward.shape
    gradients = []
    for layer in reversed(range(len(weights))):
        gradients.append((values[layer].T @ outward.reshape(rows, -1)).view(-1, sides, outward.shape[-1]))
        if layer:
            outward = (outward.reshape(rows * sides, -1) @ weights[layer].T).view(rows, sides, -1)
    return gradients[::-1]


def random_weights(outputs: int) -> list[Tensor]:
    """[in, out] of each layer."""
    import torch

    rng, sizes = torch.Generator().manual_seed(0), [update_step.OBSERVATION, *update_step.HIDDEN, outputs]
    return [torch.randn(a, b, generator=rng) / a**0.5 for a, b in itertools.pairwise(sizes)]


def floor(sides: int, rows: int):
    """Matrix products alone: no activation, bias, distribution, loss, vector of the solver or step of an optimiser."""
    import torch

    torch.set_num_threads(1)
    obs, rng = update_step.random_batch(rows)["obs"], torch.Generator().manual_seed(0)
    actor, critics = random_weights(update_step.ACTION), [random_weights(1) for _ in range(CRITICS)]
    turns = [torch.randn(len(weight), sides, weight.shape[1], generator=rng) for weight in actor]
    outward = torch.randn(BLOCK, sides, update_step.ACTION, generator=rng)
    error = torch.randn(MINIBATCH, 1, 1, generator=rng)

    def policy_step() -> None:
        blocks = [forward(block, actor) for block in obs.split(BLOCK)]
        for values in blocks:
            pull(values, actor, outward[: len(values[0])])
        for _ in range(CG_ITERS):
            for values in blocks:
                pull(values, actor, push(values, actor, turns))
        for block in obs.split(BLOCK):  # the one try of a search
            forward(block, actor)

    def critics_pass() -> None:
        for x in obs.split(MINIBATCH):
            for weights in critics:
                pull(forward(x, weights), weights, error[: len(x)])

    @torch.no_grad()
    def job():
        policy_step()
        for _ in range(PASSES):
            critics_pass()
        return {"work": 1, "fraction": 1.0, "peak_bytes": peak_bytes()}

    job()
    return lambda: job


MAKERS = {"ours": ours, "omnisafe": omnisafe, "floor": floor}


def _compared(method: str, measure: str, bar: float | None) -> Comparison:
    def ceiling(medians: Medians) -> float:
        return medians[f"floor, {method}"][measure] / medians[f"OmniSafe, {method}"][measure]

    what = {"per_cpu_s": "updates per CPU-second", "peak_bytes": "peak memory of the process"}[measure]
    return Comparison(
        f"{method}, {what}, trueline / OmniSafe",
        f"trueline, {method}",
        measure,
        f"floor, {method} / OmniSafe, {method}",
        ceiling,
        f"OmniSafe, {method}",
        at_least=bar,
    )


def plan(quick: bool) -> Plan:
    rows = QUICK_ROWS if quick else ROWS
    contestants = []
    for method, sides in SIDES.items():
        contestants += [
            Contestant(f"OmniSafe, {method}", "omnisafe", {"method": method, "rows": rows}, peer=True),
            Contestant(f"trueline, {method}", "ours", {"method": method, "rows": rows}),
            Contestant(f"floor, {method}", "floor", {"sides": sides, "rows": rows}),
        ]
    return Plan(
        unit="updates",
        note=f"One update on a collection of {rows} rows of noise at OmniSafe 0.5.0's hyper-parameters: 60 sensors, 2 "
        f"actions, networks of 64-64 tanh, one cost, {CG_ITERS} iterations of conjugate gradients on all rows, "
        f"{PASSES} passes of two critics over minibatches of {MINIBATCH}. Every sample begins with the same policy; "
        "`fraction` is the part of the step that the search accepted. Floor: the matrix products alone, those of the "
        "gradients, of the Fisher products, of one try and of the critics' forward and backward passes. OmniSafe's "
        "figure includes its DataLoader and logger, as in its training. `peak_bytes` is the most memory that the "
        "process had resident, imports included.",
        contestants=contestants,
        comparisons=[
            _compared(method, measure, bar)
            for method in SIDES
            for measure, bar in (("per_cpu_s", 3.0), ("peak_bytes", None))
        ],
    )


if __name__ == "__main__":
    _interleave.main(__file__, MAKERS, plan)
