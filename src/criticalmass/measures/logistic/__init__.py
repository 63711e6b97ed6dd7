"""Logistic probes on all prefixes of many orders, each with a certificate of its gap."""
