"""Limbeck distils large language models."""
