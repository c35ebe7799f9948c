"""Elasticity: how strongly an aligned language model returns to what it was (Ji et al. 2025, arXiv 2406.06144)."""
