"""Vectors in databases: ``open_database("postgresql://user@host/db", ...)``."""
