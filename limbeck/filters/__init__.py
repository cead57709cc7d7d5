"""Which answers of a teacher a student is to learn from: each filter says of every row why it is left out, or ''."""
