"""Pictures of industrial parts: MVTec AD and its kin."""
