"""docs/results.md: tables, verdicts and figures of the results of the local studies."""
