"""The benchmarks' arithmetic, their fairness where it can be tested, and the results kept beside them."""

from __future__ import annotations

import json
import math
import statistics
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "_interleave.main(" in path.read_text())
RESULTS = [BENCHMARKS / "results" / f"{name}.json" for name in SCRIPTS]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


# -- results ----------------------------------------------------------------------------------------------------------


def test_every_script_has_a_result():
    assert SCRIPTS
    assert [path.name for path in RESULTS if not path.is_file()] == []


@pytest.fixture(params=RESULTS, ids=lambda path: path.stem)
def result(request):
    return json.loads(request.param.read_text())


def test_a_result_says_where_and_with_what_it_was_measured(result):
    assert {"python", "trueline", "mujoco", "numpy", "torch", "gymnasium"} <= set(result["versions"]["ours"])
    if "peer" in result["versions"]:  # some peers live in our own environment
        assert {"python", "safety-gymnasium", "omnisafe", "mujoco"} <= set(result["versions"]["peer"])
    else:
        assert "transformers" in result["versions"]["ours"]
    assert result["cpu"] != "unknown"
    assert result["device"] == "cpu"
    assert len(result["git_commit"].split()[0]) == 40
    assert all(len(result["load_average"][when]) == 3 for when in ("start", "end"))
    assert result["note"].endswith(".")


def test_medians_are_those_of_the_samples(result):
    assert set(result["medians"]) == set(result["samples"])
    for name, taken in result["samples"].items():
        assert len(taken) == result["repeats"], name
        for figure, median in result["medians"][name].items():
            assert median == pytest.approx(statistics.median(sample[figure] for sample in taken)), (name, figure)
        for sample in taken:
            assert sample["per_cpu_s"] == pytest.approx(sample["work"] / sample["cpu_s"])


def test_comparisons_follow_from_the_medians_and_state_bar_and_ceiling(result):
    assert any(comparison["met"] is not None for comparison in result["comparisons"])
    for c in result["comparisons"]:
        value = result["medians"][c["ours"]][c["measure"]]
        if c["against"] is not None:
            value /= result["medians"][c["against"]][c["measure"]]
        assert c["value"] == pytest.approx(value)
        assert (
            c["met"]
            == {
                (True, True): None,
                (False, True): c["at_least"] is not None and value >= c["at_least"],
                (True, False): c["at_most"] is not None and value <= c["at_most"],
            }[c["at_least"] is None, c["at_most"] is None]
        )
        assert math.isfinite(c["ceiling"])
        assert c["ceiling"] > 0
        assert c["ceiling_is"]


def test_bars_are_accepted_only_from_a_full_run_on_a_quiet_machine(result):
    import _interleave

    load = result["load_average"]
    assert result["not_accepted_because"] == _interleave.acceptable(result["quick"], load["start"], load["end"])


@pytest.mark.parametrize(
    ("quick", "before", "after", "accepted"),
    [(False, 0.1, 1.2, True), (True, 0.1, 1.2, False), (False, 3.0, 1.2, False), (False, 0.1, 5.0, False)],
)
def test_what_makes_a_run_acceptable(quick, before, after, accepted):
    import _interleave

    assert (_interleave.acceptable(quick, [before, 0, 0], [after, 0, 0]) == "") == accepted


# -- the referee ------------------------------------------------------------------------------------------------------

FAKE = """
import sys, time
sys.path.insert(0, {benchmarks!r})
import _interleave

def maker(name, log):
    began = time.process_time()
    while time.process_time() - began < 0.3:  # a dear preparation, which must not count
        pass
    print("chatter that is no answer", flush=True)
    def job():
        print("more chatter", flush=True)
        with open(log, "a") as file:
            file.write(name)
        if name == "x":
            raise ValueError("it broke")
        return {{"work": 8.0, "own figure": 3.0}}
    return lambda: job

_interleave.main(__file__, {{"maker": maker}}, None)
"""


@pytest.fixture
def fake(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE.format(benchmarks=str(BENCHMARKS))))
    return script


def contestants(fake, names):
    import _interleave

    log = fake.with_name("log")
    return [_interleave.Contestant(n, "maker", {"name": n, "log": str(log)}) for n in names], log


def test_contestants_take_turns_and_their_preparation_is_not_counted(fake):
    import _interleave

    pair, log = contestants(fake, "ab")
    samples, versions = _interleave.interleave(pair, fake, repeats=3)
    assert log.read_text() == "ababab"
    assert [len(taken) for taken in samples.values()] == [3, 3]
    assert all(s["cpu_s"] < 0.1 for taken in samples.values() for s in taken)  # preparing took 0.3
    assert samples["a"][0]["own figure"] == 3.0
    assert versions["ours"]["numpy"] == np.__version__


def test_a_contestant_that_breaks_is_named_with_what_it_said(fake):
    import _interleave

    pair, _ = contestants(fake, "x")
    with pytest.raises(SystemExit, match=r"(?s)it broke.*'x' stopped"):
        _interleave.interleave(pair, fake, repeats=1)


def test_a_missing_peer_interpreter_is_a_sentence(fake, monkeypatch):
    import _interleave

    monkeypatch.setenv("PEER_PYTHON", "/nowhere/python")
    peer = _interleave.Contestant("p", "maker", {}, peer=True)
    with pytest.raises(SystemExit, match="PEER_PYTHON is '/nowhere/python', which is no interpreter"):
        _interleave.interleave([peer], fake, repeats=1)


def test_a_ratio_is_of_medians_with_the_range_over_turns():
    import _interleave

    def samples(*rates):
        return [{"rate": rate} for rate in rates]

    taken = {"us": samples(10.0, 40.0, 20.0), "them": samples(5.0, 8.0, 1.0)}
    given = {"what": "", "ours": "us", "measure": "rate", "ceiling_is": "double", "against": "them"}
    judged = _interleave.judge(
        _interleave.Comparison(**given, ceiling=lambda m: 2 * m["us"]["rate"], at_least=4.0), taken
    )
    assert judged["value"] == 20.0 / 5.0  # not the median 5 of the turns' ratios 2, 5, 20
    assert (judged["lowest"], judged["highest"]) == (2.0, 20.0)
    assert judged["met"] is True
    assert judged["ceiling"] == 40.0
    most = _interleave.Comparison(**given, ceiling=lambda _: 1.0, at_most=3.9)
    assert _interleave.judge(most, taken)["met"] is False
    context = _interleave.Comparison(**given, ceiling=lambda _: 1.0)
    assert _interleave.judge(context, taken)["met"] is None


def test_a_quick_run_never_replaces_a_full_one(tmp_path):
    import _interleave

    path = tmp_path / "b.json"
    _interleave._write({"quick": True, "n": 1}, path)
    _interleave._write({"quick": False, "n": 2}, path)
    assert "kept" in _interleave._write({"quick": True, "n": 3}, path)
    assert json.loads(path.read_text())["n"] == 2


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("quick", [True, False])
def test_every_comparison_is_between_contestants_of_the_plan(script, quick):
    import importlib

    module = importlib.import_module(script)
    plan = module.plan(quick)
    names = [contestant.name for contestant in plan.contestants]
    assert len(set(names)) == len(names)
    assert {contestant.maker for contestant in plan.contestants} <= set(module.MAKERS)
    for comparison in plan.comparisons:
        assert {comparison.ours, comparison.against} <= {*names, None}
        # A ceiling is a function of the medians of this plan's contestants, and of no other.
        measures = (
            "per_cpu_s",
            "per_wall_s",
            "cpu_s",
            "wall_s",
            "passes",
            "update_per_cpu_s",
            "bytes_per_env",
            "peak_bytes",
            "steps",
            "work",
        )
        figures = dict.fromkeys(measures, 2.0)
        assert comparison.ceiling(dict.fromkeys(names, figures)) > 0


# -- fairness ---------------------------------------------------------------------------------------------------------


def copy_into(networks, ours):
    """Give the three separate networks the weights of our policy and stacked critics."""
    policy, *critics = networks
    with torch.no_grad():
        for k, linear in enumerate(m for m in policy if isinstance(m, torch.nn.Linear)):
            linear.weight.copy_(ours.actor.weights[k])
            linear.bias.copy_(ours.actor.biases[k])
        policy.log_std.copy_(ours.log_std)
        for h, critic in enumerate(critics):
            for k, linear in enumerate(m for m in critic if isinstance(m, torch.nn.Linear)):
                linear.weight.copy_(ours.critics.weights[k][h].T)
                linear.bias.copy_(ours.critics.biases[k][h, 0])


def test_the_separate_networks_do_the_same_update_as_ours():
    import update_step

    # In double precision: Adam's first steps turn a rounding error of a gradient near 0 into a whole step.
    minibatch, batch = 64, {name: x.double() for name, x in update_step.random_batch(640).items()}
    ours = update_step.our_network().double()
    separate = [network.double() for network in update_step.three_networks()]
    copy_into(separate, ours)
    our_pass = update_step.our_pass(ours, minibatch, batch)
    separate_pass = update_step.separate_pass(separate, minibatch, batch)
    start = ours.actor.weights[0].detach().clone()
    for seed in range(2):
        report = our_pass(torch.Generator().manual_seed(seed))
        assert report.kl == pytest.approx(separate_pass(torch.Generator().manual_seed(seed)), rel=1e-6)
    assert (ours.actor.weights[0] - start).abs().max() > 1e-3  # twenty steps of Adam at 3e-4
    expected = [network.double() for network in update_step.three_networks()]
    copy_into(expected, ours)
    for theirs, own in zip(separate, expected, strict=True):
        for p, q in zip(theirs.parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("heads", [1, 3])
def test_the_floors_arithmetic_is_a_whole_gradient(heads):
    import update_step

    rng = torch.Generator().manual_seed(1)
    x = torch.randn(7, update_step.OBSERVATION, generator=rng)
    weights, biases = update_step.stacked_parameters(heads)
    outward = torch.randn(heads, 7, update_step.ACTION, generator=rng)
    found = update_step.gradient_arithmetic(x, weights, biases, outward)
    leaves = [[p.requires_grad_() for p in parameters] for parameters in (weights, biases)]
    h = x.expand(heads, *x.shape)
    for k, (weight, bias) in enumerate(zip(*leaves, strict=True)):
        h = h @ weight + bias
        h = h.tanh() if k < len(weights) - 1 else h
    (h * outward).sum().backward()
    for gradients, parameters in zip(found, leaves, strict=True):
        for gradient, parameter in zip(gradients, parameters, strict=True):
            torch.testing.assert_close(gradient.detach(), parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "id",
    ["SafetyPointGoal2-v0", "SafetyPointButton1-v0", "SafetyDoggoGoal1-v0", "SafetyHopperVelocity-v1"],
)
def test_the_engine_alone_goes_through_the_states_of_the_world(id):
    import worlds_throughput

    flight = worlds_throughput.in_flight(id, 4, 30)  # one episode ends within the 30 steps by its clock
    flight.state["elapsed"][:] = [0, flight.env.max_episode_steps - 7, 100, 200]
    script = worlds_throughput.script_of(flight)
    assert any(1 in rows for rows, _ in script.begun.values())
    alone = worlds_throughput.Engine(flight.env, script)
    for _ in range(2):  # every sample does the same work
        alone.run()
        np.testing.assert_array_equal(alone.batch.state, script.end)
    assert (np.abs(script.end - script.start).max(axis=1) > 0.01).all()


@pytest.mark.parametrize(("id", "num_envs"), [("SafetyPointGoal1-v0", 16), ("SafetyHalfCheetahVelocity-v1", 256)])
def test_a_part_of_an_episode_has_its_share_of_the_resets(id, num_envs):
    import worlds_throughput

    steps = worlds_throughput._steps(id, num_envs, quick=False)
    flight = worlds_throughput.in_flight(id, num_envs, steps)
    left = flight.env.max_episode_steps - flight.state["elapsed"]
    assert abs((left <= steps).sum() - num_envs * steps / flight.env.max_episode_steps) < 1


# -- a policy in the original -----------------------------------------------------------------------------------------


@pytest.fixture
def parity():
    return json.loads((BENCHMARKS / "results" / "policy_parity.json").read_text())


def test_the_exported_policy_is_the_policy():
    import policy_parity

    from trueline.rl.networks import ActorCritic, ActorNetwork, Network
    from trueline.rl.policy import NetworkPolicy, WorldRef
    from trueline.rl.spaces import ActionCodec, ObservationCodec

    observation, rng = ObservationCodec((("", "box", (60,)),)), torch.Generator().manual_seed(3)
    network = ActorCritic(observation, ActionCodec("continuous", (2,), False), 1, ActorNetwork(), Network(), rng)
    network.encoder.norm.update(torch.randn(50, 60, generator=rng) * 3.0 + 1.0)
    shape = {"actor": ActorNetwork().model_dump(), "costs": ["cost_sum"]}
    policy = NetworkPolicy(network, observation, WorldRef(id="SafetyPointGoal1-v0"), shape)
    arrays = policy_parity.exported(policy)
    obs = np.random.default_rng(0).normal(size=(7, 60)) * 4.0
    with torch.no_grad():
        expected = policy.mean_action(torch.as_tensor(obs, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(policy_parity.mean_action(arrays, obs), expected, atol=1e-5)
    drawn = np.full((7, 2), 0.25)  # σ = 1
    np.testing.assert_allclose(policy_parity.act(arrays, obs, drawn), np.clip(expected + 0.25, -1, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.9, 1.0, "alike"), (0.2, 0.4, "alike"), (-0.1, 1.1, "inconclusive"), (1.1, 2.0, "different")],
)
def test_what_an_interval_says_of_a_margin(low, high, verdict):
    import policy_parity

    assert policy_parity.verdict(low, high, 1.0) == policy_parity.verdict(-high, -low, 1.0) == verdict


def test_the_verdict_on_the_policy_follows_from_its_episodes(parity):
    import policy_parity

    assert parity["episodes"] >= 100
    for mode in policy_parity.MODES:
        for name in policy_parity.SCORES:
            ours, theirs = (np.array(parity["per_episode"][side][mode][name]) for side in ("ours", "original"))
            assert len(ours) == len(theirs) == parity["episodes"]
            found = parity["scores"][mode][name]
            error = (ours - theirs).std(ddof=1) / math.sqrt(len(ours))
            assert found["difference"] == pytest.approx((ours - theirs).mean())
            assert found["high"] - found["difference"] == pytest.approx(1.984 * error, rel=0.02)  # t, 99 degrees
            assert found["difference"] - found["low"] == pytest.approx(1.984 * error, rel=0.02)
            assert found["margin"] == pytest.approx(policy_parity.MARGIN * theirs.std(ddof=1))
            assert found["verdict"] == policy_parity.verdict(found["low"], found["high"], found["margin"])
    assert parity["verdict"] == {name: parity["scores"]["stochastic"][name]["verdict"] for name in policy_parity.SCORES}


def test_both_worlds_began_alike_and_evaluated_the_same_policy(parity):
    assert parity["largest_difference"]["lidar_at_the_start"] < 1e-9
    assert parity["largest_difference"]["exported_policy"] < 1e-5


def test_importing_a_script_needs_only_the_standard_library():
    """Peers' interpreters have neither trueline nor our versions of anything."""
    import subprocess

    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import {', '.join(SCRIPTS)}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
