"""Feature stores and runs on disk."""
