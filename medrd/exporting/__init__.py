"""``medrd export``."""
