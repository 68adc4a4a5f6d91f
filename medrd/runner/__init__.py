"""Runs the work of a command in this process, or in Ray processes."""
