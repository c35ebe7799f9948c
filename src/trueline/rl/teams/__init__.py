"""Teams: several agents that learn on one world, each its own policy or all one, under limits of their own."""
