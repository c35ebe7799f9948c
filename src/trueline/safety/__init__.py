"""Safe reinforcement learning: Safety-Gymnasium's worlds and the table of constrained algorithms."""
