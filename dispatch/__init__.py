"""A server for durable flows."""
