"""Experiments of docs/probing.md."""
