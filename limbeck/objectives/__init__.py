"""Objectives: what it means for a student to agree with its teacher. One file each."""
