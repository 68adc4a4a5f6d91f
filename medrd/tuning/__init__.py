"""``medrd tune``."""
