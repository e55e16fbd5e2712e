"""Field seasons by the million, for whoever wants to learn from them."""
