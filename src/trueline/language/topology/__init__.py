"""Topology of preference data: trees and chains of replies, what reward models learn from them, and the theory."""
