"""Repeatable measurements, each against a peer in the same run, with the machine described beside them."""
