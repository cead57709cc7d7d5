"""Teachers: whatever can give a Signal for a Batch."""
