"""Selectors: rules that choose neurons by an order or a projection."""
