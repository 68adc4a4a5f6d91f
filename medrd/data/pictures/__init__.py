"""Pictures of industrial parts: MVTec AD and similar data sets."""
