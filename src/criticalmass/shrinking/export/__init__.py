"""Exports of a slim model as files for other programs."""
