"""Worlds, policies and their training and audits, shared by every wing."""
