"""What growers would do otherwise: the baselines, and the tuning of rules on training seasons."""
