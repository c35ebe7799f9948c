"""Audits of policies, by principle: ethicality, robustness, controllability, interpretability.

All of them meet the policy in whole episodes on held-out layouts; a layout is the independent unit of every interval.
What is compared on one layout (nominal and disturbed, told and not told, policy and surrogate) shares its action noise.
"""
