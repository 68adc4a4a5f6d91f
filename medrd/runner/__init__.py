"""Runs the work of a verb in this process, or in Ray processes."""
