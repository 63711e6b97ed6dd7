"""Search for images: what a subset of neurons determines, overlooks and withstands."""
