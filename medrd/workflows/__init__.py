"""One module a verb: train, predict, evaluate, demo."""
