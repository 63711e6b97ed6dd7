"""Tables computed from runs: redundancy, comparison, fairness, agreement, Pareto front."""
