"""Runs flows: commands in, entries out, nothing decided here that `core` can decide."""
