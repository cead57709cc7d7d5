"""Measures of a student, its teacher and its control on held-out text."""
