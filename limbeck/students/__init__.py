"""Students: functions from a teacher model to a student model."""
