"""The shared inference engine."""
