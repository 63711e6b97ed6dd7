"""Shared foundations: rows and moments, arguments, threads, memory, progress and backends."""
