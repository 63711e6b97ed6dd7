"""Rules that choose neurons: each gives an order or a projection."""
