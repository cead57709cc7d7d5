"""Models: loading, and where layers, norm and head stand in each family."""
