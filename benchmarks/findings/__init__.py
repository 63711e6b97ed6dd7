"""The text docs/results.md: tables, verdicts and figures of what the local studies measured."""
