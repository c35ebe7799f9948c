"""Trained policies of the point world whose answers are known: an actor without a hidden layer."""

from __future__ import annotations

import numpy as np
import torch
from point_world import WORLD, PointWorld

from trueline.rl.networks import ActorCritic, ActorNetwork, Network
from trueline.rl.policy import NetworkPolicy
from trueline.rl.spaces import ActionCodec, ObservationCodec


def linear_policy(weight=np.zeros((2, 6)), bias=(0.0, 0.0), log_std=-20.0):
    """a = W·o + b of the point world, as a trained policy."""
    world = PointWorld()
    observation, action = ObservationCodec.of(world.observation_space), ActionCodec.of(world.action_space)
    actor, critic = ActorNetwork(hidden=(), log_std=log_std), Network(hidden=())
    network = ActorCritic(observation, action, 1, actor, critic, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.actor.weights[0].copy_(torch.as_tensor(np.asarray(weight, np.float32)))
        network.actor.biases[0].copy_(torch.as_tensor(np.asarray(bias, np.float32)))
    shape = {"actor": actor.model_dump(mode="json"), "critic": critic.model_dump(mode="json"), "costs": ["hazard"]}
    return NetworkPolicy(network, observation, WORLD, shape)
