"""Trueline."""
