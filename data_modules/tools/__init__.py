"""What `dof data` does with datasets that are there: look at them, check them, cut and merge them."""
