"""A slim model as files for other programs."""
