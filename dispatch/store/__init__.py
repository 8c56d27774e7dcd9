"""Journals, durable."""
