"""Tools of `dof data` for existing datasets: inspecting, checking, cutting and merging them."""
