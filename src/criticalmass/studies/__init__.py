"""Studies: the paper's experiments as files, and the commands that combine several steps."""
