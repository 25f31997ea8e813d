"""The papers' experiments: functions that return recipes."""
