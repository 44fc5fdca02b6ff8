"""One run: what is built, fitted, kept in its folder and written down at its end."""
