"""``medrd compare``."""
