"""What governs redundancy: docs/causes.md from the tables of the study `causes`."""
