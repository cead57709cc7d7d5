"""`limbeck generate`: a teacher that can only speak writes text for a student."""
