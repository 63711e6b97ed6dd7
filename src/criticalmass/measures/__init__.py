"""What is scored: probes and similarities, and the registry that names them."""
