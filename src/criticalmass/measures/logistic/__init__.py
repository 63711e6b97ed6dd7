"""Logistic probes on all prefixes of many orders, with a certificate."""
