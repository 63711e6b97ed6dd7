"""Similarities of a subset with its whole layer."""
