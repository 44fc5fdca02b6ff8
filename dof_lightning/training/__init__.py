"""One run: its parts are built and fitted, kept in its folder, and its results written at the end."""
