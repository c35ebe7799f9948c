"""Training from recorded data alone: data, the loop, its networks, and its updates."""
