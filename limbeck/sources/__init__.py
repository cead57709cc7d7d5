"""Sources: functions that give rows of tokens in a repeatable order."""
