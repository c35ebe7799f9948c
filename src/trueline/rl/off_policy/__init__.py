"""Training from replay: the loop, its networks, and its updates."""
