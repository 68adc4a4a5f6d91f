"""Who does the work of a verb: this process, or processes of Ray."""
