"""From a checkpoint and a scan to a mask on the scan's own grid."""
