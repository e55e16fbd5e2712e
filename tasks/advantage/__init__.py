"""Learning, by rollouts in simulated seasons, where another dose than the rule's is worth more."""
