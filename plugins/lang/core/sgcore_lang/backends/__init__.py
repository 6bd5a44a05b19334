"""Where programs are computed."""
