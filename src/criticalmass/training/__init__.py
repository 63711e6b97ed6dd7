"""Training of small networks from recipes, to find what governs redundancy."""
