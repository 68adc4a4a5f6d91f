"""``medrd predict``."""
