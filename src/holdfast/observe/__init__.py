"""What others see of a run: metrics and notifications, made from the log of events."""
