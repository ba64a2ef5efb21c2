"""Black-box measurements of a running service."""
