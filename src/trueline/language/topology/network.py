"""Induced Bayesian networks: what a comparison of two responses says about two others (arXiv 2402.10184, section 4).

Vertices are responses. An edge (u, v) with variance s² says that r(u) − r(v) is known up to Gaussian noise of that
variance: from a comparison in the data (a human-preference edge), or because the responses are alike (an
inductive-bias edge). The inference distance of two responses is the variance with which the difference of their rewards
can be inferred, and there are two readings of it:

    effective resistance    along all paths at once: variances add in series, precisions in parallel. It is the exact
                            posterior variance of r(u) − r(v)
    cheapest path           along the one path whose variances have the smallest sum

The second is never below the first. Its mean over two responses drawn uniformly and independently, so with equal ones
among them, stands for the uncertainty of a reward model. The structural function F(M) is the mean inference distance
within clusters when the inductive-bias edges alone are there and responses are cut into M clusters.

Letters of shapes: V vertices, E edges, n comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from trueline.core.errors import ConfigError

__all__ = [
    "Network",
    "cheapest_path",
    "clique",
    "covariance",
    "effective_resistance",
    "explained",
    "hierarchy",
    "interval_structural_function",
    "joined",
    "leaves_of_hierarchy",
    "mean_distance",
    "observed",
    "path",
    "resistance",
    "star",
    "structural_function",
]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_MOST_EXACT = 14  # vertices of which all partitions are gone through: 3^14 pairs of a set and a part of it


@dataclass(frozen=True, slots=True)
class Network:
    """V vertices and E edges.  Raises ConfigError for an edge out of range, and a variance that is not above 0."""

    vertices: int
    edges: Indices  # [E, 2]
    variance: Array  # [E]

    def __post_init__(self) -> None:
        if self.edges.shape != (len(self.variance), 2):
            raise ConfigError(
                f"edges have the shape {self.edges.shape}, but there are {len(self.variance)} variances. "
                "Give two vertices and one variance for each edge."
            )
        if len(self.edges) and not (self.edges.min() >= 0 and self.edges.max() < self.vertices):
            raise ConfigError(f"an edge leaves the vertices 0 to {self.vertices - 1}. Give vertices among those.")
        if not (np.isfinite(self.variance).all() and (self.variance > 0).all()):
            raise ConfigError("an edge has a variance that is not above 0, or not finite. Give positive ones.")


# --- graphs ---


def path(vertices: int, variance: float = 1.0) -> Network:
    """0 - 1 - … - V−1."""
    at = np.arange(vertices - 1)
    return Network(vertices, np.column_stack([at, at + 1]), np.full(vertices - 1, variance))


def star(vertices: int, variance: float = 1.0) -> Network:
    """Vertex 0 joined to all others."""
    others = np.arange(1, vertices)
    return Network(vertices, np.column_stack([np.zeros_like(others), others]), np.full(vertices - 1, variance))


def clique(vertices: int, variance: float = 1.0) -> Network:
    """Every two vertices joined."""
    edges = np.column_stack(np.triu_indices(vertices, 1)).astype(np.int64)
    return Network(vertices, edges, np.full(len(edges), variance))


def hierarchy(branching: int, variances: Sequence[float]) -> Network:
    """A complete tree, `variances` of its edges by level from the root down; vertex 0 is the root, the leaves are last.

    Responses are the leaves alone: the others stand for what leaves below them have in common.
    """
    edges, variance, above, first = [], [], np.zeros(1, dtype=np.int64), 1
    for own in variances:
        below = first + np.arange(len(above) * branching)
        edges.append(np.column_stack([np.repeat(above, branching), below]))
        variance.append(np.full(len(below), own))
        above, first = below, first + len(below)
    return Network(first, np.concatenate(edges), np.concatenate(variance))


def leaves_of_hierarchy(branching: int, levels: int) -> Indices:
    """Its responses.  -> [branching^levels]."""
    inner = (branching**levels - 1) // (branching - 1)
    return inner + np.arange(branching**levels)


def joined(one: Network, *others: Network) -> Network:
    """All edges of networks over the same vertices."""
    networks = (one, *others)
    if any(other.vertices != one.vertices for other in others):
        sizes = ", ".join(str(network.vertices) for network in networks)
        raise ConfigError(f"networks of {sizes} vertices cannot be joined. Give them the same vertices.")
    edges, variance = ([getattr(n, name) for n in networks] for name in ("edges", "variance"))
    return Network(one.vertices, np.concatenate(edges), np.concatenate(variance))


# --- inference distance ---


def _grounded(network: Network) -> Array:
    """Covariance of r − r(0) for a connected network: the inverse of its Laplacian without vertex 0.  -> [V, V]."""
    u, v = network.edges.T
    precision = 1.0 / network.variance
    laplacian = np.zeros((network.vertices, network.vertices))
    np.add.at(laplacian, (u, u), precision)
    np.add.at(laplacian, (v, v), precision)
    np.subtract.at(laplacian, (u, v), precision)
    np.subtract.at(laplacian, (v, u), precision)
    found = np.zeros_like(laplacian)
    found[1:, 1:] = np.linalg.inv(laplacian[1:, 1:])
    return found


def _components(network: Network) -> Indices:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    shape = (network.vertices, network.vertices)
    graph = coo_matrix((np.ones(len(network.edges)), tuple(network.edges.T)), shape)
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def covariance(network: Network) -> Array:
    """Posterior covariance of r − r(0), the differences along edges being all that is known of r.  -> [V, V].

    Raises ConfigError for a network in pieces, between which nothing is known.
    """
    pieces = int(_components(network).max(initial=0)) + 1
    if pieces > 1:
        raise ConfigError(
            f"the network is in {pieces} pieces, and rewards of different ones cannot be compared. Join them by edges."
        )
    return _grounded(network)


def explained(prior: Array, pairs: Indices, variance: Array | float) -> Array:
    """H with HᵀH the covariance that observing r(u) − r(v) of n pairs takes away.  [V, V], pairs [n, 2] -> [n, V].

    HᵀH = K·Aᵀ·(A·K·Aᵀ + S)⁻¹·A·K with rows A = e_u − e_v and S = diag(variance).
    """
    differences = prior[pairs[:, 0]] - prior[pairs[:, 1]]  # A·K [n, V]
    within = differences[:, pairs[:, 0]] - differences[:, pairs[:, 1]]  # A·K·Aᵀ [n, n]
    factor = np.linalg.cholesky(within + np.diag(np.broadcast_to(variance, len(pairs))))
    return np.asarray(np.linalg.solve(factor, differences))


def observed(prior: Array, pairs: Indices, variance: Array | float) -> Array:
    """The covariance once differences of n pairs were observed.  [V, V], pairs [n, 2] -> [V, V].

    That of the network with these edges added, for a fraction of the work where n is far below V.
    """
    half = explained(prior, pairs, variance)
    return np.asarray(prior - half.T @ half)


def resistance(covariance: Array) -> Array:
    """Var(r(u) − r(v)) of every two vertices.  [V, V] -> [V, V]."""
    own = np.diag(covariance)
    return np.maximum(own[:, None] + own[None, :] - 2.0 * covariance, 0.0)


def effective_resistance(network: Network) -> Array:
    """Inference distance along all paths at once, inf between vertices that none joins.  -> [V, V]."""
    found = np.full((network.vertices, network.vertices), math.inf)
    component = _components(network)
    for piece in range(int(component.max(initial=0)) + 1):
        own = np.flatnonzero(component == piece)
        number = np.full(network.vertices, -1)
        number[own] = np.arange(len(own))
        inside = component[network.edges[:, 0]] == piece
        part = Network(len(own), number[network.edges[inside]], network.variance[inside])
        found[np.ix_(own, own)] = resistance(_grounded(part))
    return found


def cheapest_path(network: Network, sources: Indices | None = None) -> Array:
    """Inference distance along the cheapest path from the sources [S], by default all vertices.  -> [S, V]."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    # Of parallel edges the cheapest counts; a sparse matrix would add them.
    ends = np.sort(network.edges, axis=1)
    order = np.lexsort((network.variance, ends[:, 1], ends[:, 0]))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(ends[order], axis=0) != 0).any(axis=1)
    kept = order[first & (ends[order, 0] != ends[order, 1])]
    graph = csr_matrix((network.variance[kept], tuple(ends[kept].T)), (network.vertices, network.vertices))
    return np.asarray(dijkstra(graph, directed=False, indices=sources))


def mean_distance(distance: Array) -> float:
    """E[d(y₁, y₂)] for y₁, y₂ uniform and independent.  distance [S, Y] -> number."""
    return float(distance.mean())


# --- structural function ---


def _sizes(vertices: int, clusters: int) -> tuple[int, int]:
    """Smallest and largest size of a cluster: 1/(2M) ≤ |C|/|Y| ≤ 2/M.  Raises ConfigError for an impossible number."""
    if not 1 <= clusters <= vertices:
        raise ConfigError(
            f"{vertices} responses cannot be cut into {clusters} clusters. Ask for 1 to as many as there are responses."
        )
    return max(1, -(-vertices // (2 * clusters))), 2 * vertices // clusters


def structural_function(distance: Array, clusters: int) -> float:
    """F(M): the smallest d such that Y can be cut into M clusters, each with a mean distance of at most d.

    A cluster holds between 1/(2M) and 2/M of all responses. distance [Y, Y], under the inductive-bias edges alone. All
    partitions are gone through, so of at most 14 responses; for more see `interval_structural_function`. Raises
    ConfigError for more, and where no partition has so many clusters.
    """
    vertices = len(distance)
    if vertices > _MOST_EXACT:
        raise ConfigError(
            f"{vertices} responses have too many partitions to try; {_MOST_EXACT} can be. "
            "Use interval_structural_function."
        )
    low, high = _sizes(vertices, clusters)
    members = [np.array([v for v in range(vertices) if mask >> v & 1]) for mask in range(1 << vertices)]
    cost = [float(distance[np.ix_(own, own)].mean()) if low <= len(own) <= high else math.inf for own in members]

    @cache
    def best(left: int, parts: int) -> float:
        if not left or not parts:
            return 0.0 if not left and not parts else math.inf
        lowest = left & -left
        rest, found = left ^ lowest, math.inf
        part = rest
        while True:  # every subset of the rest, together with the lowest vertex
            own = part | lowest
            if cost[own] < found:
                found = min(found, max(cost[own], best(left ^ own, parts - 1)))
            if not part:
                return found
            part = (part - 1) & rest

    return best((1 << vertices) - 1, clusters)


def interval_structural_function(distance: Array, clusters: int) -> float:
    """F(M) over partitions into intervals 0…a, a+1…b, … of the responses in their order.

    Never below F(M), and equal to it where intervals are best, as on a path; by dynamic programming over their ends.
    distance [Y, Y].  Raises ConfigError where no partition has so many clusters.
    """
    vertices = len(distance)
    low, high = _sizes(vertices, clusters)
    total = np.zeros((vertices + 1, vertices + 1))
    total[1:, 1:] = distance.cumsum(axis=0).cumsum(axis=1)
    at = np.arange(vertices + 1)
    size = at[None, :] - at[:, None]
    inside = total[at, at][None, :] - total - total.T + total[at, at][:, None]  # sum over a…b−1 of both arguments
    cost = np.where((size >= low) & (size <= high), inside / np.maximum(size, 1) ** 2, math.inf)
    best = np.full(vertices + 1, math.inf)
    best[0] = 0.0
    for _ in range(clusters):
        best = np.maximum(best[:, None], cost).min(axis=0)
    return float(best[vertices])
