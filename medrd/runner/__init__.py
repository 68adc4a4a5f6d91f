"""Who does the work: processes of Ray, on this machine or a cluster."""
