"""CRABS (Luo & Ma 2021): a barrier certificate learnt beside the policy, and no violation while learning.

In two dimensions, where the largest safe set can be known: `rl/certificates/` is measured against it. The original's
worlds have up to four numbers and no known set. Departures from the paper and its code:

1. The policy that is certified and the one that is rewarded are two networks, and the guard does of what the second
   wants as much as is certain. In the original one network is both, so that what earns and what is certified pull
   at the same weights.
2. The first certified policy is the world's own controller, imitated; the original begins with networks that were
   pre-trained elsewhere. The models begin with what that controller has seen.
3. Nothing is called safe beyond a box twice as wide as what has been seen, and members' differences count threefold:
   members that were fitted to the same few data agree far from them, and are wrong there together.
4. The barrier is pushed outward before it is taken back, and gives way only to one that calls no less safe. The
   original begins with a large one and keeps it from shrinking; begun small it would stay so.
5. An action that is not certain is drawn back towards the certified policy's in eight steps. The original draws a
   hundred with less and less noise around the policy's mean.
6. The search moves by Langevin steps of one length without a Metropolis test, from points that are partly drawn anew:
   in two dimensions maxima are what is wanted, not a sample. Ten thousand chains are a few hundred points here.
7. The multiplier λ of a violated state is at most 10: where h is flat, the quotient of slopes says nothing.
8. The value of the next state is that of what is done there; the original leaves out rows whose next action is not
   certain. Where an action is not certain the policy descends κU; the original's constant of −1000 has no gradient.
9. A share of the environments explores by random actions that are held for a while; the original draws them anew in
   every step, which in a world of inertia leads nowhere. Both are guarded.
10. α is fixed, and so is how often the barrier is learnt.
"""

from __future__ import annotations

from trueline.rl.certificates.training import CertifiedRecipe

__all__ = ["CRABS"]

CRABS = CertifiedRecipe("crabs", {"fast": {}})
