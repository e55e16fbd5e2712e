"""The study: what the shipped bundle earns on seasons it never saw, against every baseline, fold by fold."""
