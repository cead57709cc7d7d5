"""Selection: which ids of a distribution are kept, and with what weight."""
