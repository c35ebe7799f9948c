"""Safety filters between a policy and its world: the nearest action that a model of the next step calls safe."""
