"""``medrd evaluate``."""
