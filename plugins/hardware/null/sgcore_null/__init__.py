"""A platform that schedules and computes nothing."""
