"""Where open runs of 0.1.0, and scripts for it, find the commit."""
