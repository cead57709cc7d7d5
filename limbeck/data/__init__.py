"""From documents to packed rows: read, tokenize, pack, load."""
