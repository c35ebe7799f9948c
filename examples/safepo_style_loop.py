"""PPO with a Lagrange multiplier, the way single-file training scripts for Safety-Gymnasium are written.

It knows nothing of Trueline. Run it unchanged:

    python -m trueline.compat.safety_gymnasium examples/safepo_style_loop.py --task SafetyPointGoal1-v0
"""

import argparse
from collections import deque

import gymnasium
import numpy as np
import safety_gymnasium
import torch
from gymnasium.wrappers.normalize import NormalizeObservation
from safety_gymnasium.vector.async_vector_env import SafetyAsyncVectorEnv
from safety_gymnasium.wrappers import SafeAutoResetWrapper, SafeRescaleAction, SafeUnsqueeze
from torch import nn
from torch.distributions import Normal


class SafeNormalizeObservation(NormalizeObservation):
    """Running normalisation of the observation, with six values per step."""

    def step(self, action):
        obs, reward, cost, terminated, truncated, info = self.env.step(action)
        obs = self.normalize(obs) if self.is_vector_env else self.normalize(np.array([obs]))[0]
        return obs, reward, cost, terminated, truncated, info


def make_env(task, num_envs, seed):
    if num_envs > 1:
        env = SafetyAsyncVectorEnv(
            [lambda: SafeRescaleAction(safety_gymnasium.make(task), -1.0, 1.0) for _ in range(num_envs)]
        )
        env = SafeNormalizeObservation(env)
        env.reset(seed=seed)
        return env, env.single_observation_space, env.single_action_space
    env = safety_gymnasium.make(task)
    env.reset(seed=seed)
    spaces = env.observation_space, env.action_space
    env = SafeRescaleAction(SafeAutoResetWrapper(env), -1.0, 1.0)
    return SafeUnsqueeze(SafeNormalizeObservation(env)), *spaces


class ActorCritics(nn.Module):
    def __init__(self, obs_dim, act_dim):
        super().__init__()

        def body(out):
            return nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, out))

        self.mean, self.reward_value, self.cost_value = body(act_dim), body(1), body(1)
        self.log_std = nn.Parameter(torch.zeros(act_dim))

    def policy(self, obs):
        return Normal(self.mean(obs), self.log_std.exp())

    def values(self, obs):
        return torch.stack([self.reward_value(obs)[..., 0], self.cost_value(obs)[..., 0]], dim=-1)


def advantages(signal, value, next_value, ended, gamma=0.99, lam=0.95):
    """Of reward and cost alike: [T, N, 2]."""
    delta = signal + gamma * next_value - value
    out, carry = torch.zeros_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        out[t] = carry = delta[t] + gamma * lam * (1 - ended[t])[:, None] * carry
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="SafetyPointGoal1-v0")
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-steps", type=int, default=200_000)
    parser.add_argument("--steps-per-epoch", type=int, default=20_000)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--cost-limit", type=float, default=25.0)
    args = parser.parse_args()
    np.random.seed(args.seed)  # noqa: NPY002
    torch.manual_seed(args.seed)

    env, obs_space, act_space = make_env(args.task, args.num_envs, args.seed)
    assert isinstance(act_space, gymnasium.spaces.Box)
    agent = ActorCritics(obs_space.shape[0], act_space.shape[0])
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4)
    multiplier = nn.Parameter(torch.tensor(0.001))
    multiplier_optimizer = torch.optim.Adam([multiplier], lr=0.035)
    returns, costs, lengths = deque(maxlen=50), deque(maxlen=50), deque(maxlen=50)
    steps = args.steps_per_epoch // args.num_envs

    obs, _ = env.reset()
    obs = torch.as_tensor(obs, dtype=torch.float32)
    running = np.zeros((args.num_envs, 3))  # return, cost, length
    for epoch in range(args.total_steps // args.steps_per_epoch):
        kept = {key: [] for key in ("obs", "act", "logp", "signal", "value", "next_value", "ended")}
        for _ in range(steps):
            with torch.no_grad():
                policy = agent.policy(obs)
                act = policy.sample()
                value = agent.values(obs)
            action = act.numpy() if args.num_envs > 1 else act.squeeze(0).numpy()
            next_obs, reward, cost, terminated, truncated, info = env.step(action)
            running += np.stack([reward, cost, np.ones(args.num_envs)], axis=1)
            next_obs = torch.as_tensor(next_obs, dtype=torch.float32)
            with torch.no_grad():
                next_value = agent.values(next_obs)
                if "final_observation" in info:
                    for i, final in enumerate(info["final_observation"]):
                        if final is not None:
                            next_value[i] = agent.values(torch.as_tensor(final, dtype=torch.float32))
            next_value[torch.as_tensor(terminated)] = 0.0
            ended = np.logical_or(terminated, truncated)
            for i in np.flatnonzero(ended):
                for window, number in zip((returns, costs, lengths), running[i], strict=True):
                    window.append(number)
                running[i] = 0.0
            row = {
                "obs": obs,
                "act": act,
                "logp": policy.log_prob(act).sum(-1),
                "signal": torch.as_tensor(np.stack([reward, cost], axis=-1), dtype=torch.float32),
                "value": value,
                "next_value": next_value,
                "ended": torch.as_tensor(ended, dtype=torch.float32),
            }
            for key, entry in row.items():
                kept[key].append(entry)
            obs = next_obs

        data = {key: torch.stack(entries) for key, entries in kept.items()}
        advantage = advantages(data["signal"], data["value"], data["next_value"], data["ended"])
        target = advantage + data["value"]
        if costs:
            multiplier_optimizer.zero_grad()
            (-multiplier * (np.mean(costs) - args.cost_limit)).backward()
            multiplier_optimizer.step()
            multiplier.data.clamp_(min=0.0)
        lam = multiplier.item()
        reward_part = (advantage[..., 0] - advantage[..., 0].mean()) / (advantage[..., 0].std() + 1e-8)
        mixed = (reward_part - lam * (advantage[..., 1] - advantage[..., 1].mean())) / (1 + lam)
        flat = {key: data[key].flatten(0, 1) for key in ("obs", "act", "logp")}
        flat |= {"target": target.flatten(0, 1), "mixed": mixed.flatten()}
        for _ in range(args.passes):
            for rows in torch.randperm(len(flat["mixed"])).split(256):
                policy = agent.policy(flat["obs"][rows])
                ratio = (policy.log_prob(flat["act"][rows]).sum(-1) - flat["logp"][rows]).exp()
                gain = torch.min(ratio * flat["mixed"][rows], ratio.clamp(0.8, 1.2) * flat["mixed"][rows]).mean()
                error = (agent.values(flat["obs"][rows]) - flat["target"][rows]).pow(2).mean(0).sum()
                optimizer.zero_grad()
                (error - gain).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 40.0)
                optimizer.step()
        means = [np.mean(window) if window else float("nan") for window in (returns, costs, lengths)]
        print(f"epoch {epoch} return {means[0]:.3f} cost {means[1]:.2f} length {means[2]:.0f} multiplier {lam:.4f}")
    env.close()


if __name__ == "__main__":
    main()
