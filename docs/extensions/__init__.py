"""What the documentation needs besides the extensions of others."""
