"""The teacher cache: what a teacher said of a row, kept by the content of the row."""
