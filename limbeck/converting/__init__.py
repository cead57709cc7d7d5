"""Caches of an older format, and of other tools, written as caches of this format."""
