"""Ground truth for constrained learning: small CMDPs, their exact optima, worlds over them, a checker of recipes."""
