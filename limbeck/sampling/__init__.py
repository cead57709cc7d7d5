"""Whoever can only speak: asked for text, over HTTP or in this process, and what came of it."""
