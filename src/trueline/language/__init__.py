"""Language models: training under constraints, reward models, elasticity, and worlds of text."""
