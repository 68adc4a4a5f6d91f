"""Brain scans: BIDS, normalisation, slices and the way back to the scan's grid."""
