"""``medrd train``."""
