"""Simulated brains and textures, for the demo, the docs and the tests."""
