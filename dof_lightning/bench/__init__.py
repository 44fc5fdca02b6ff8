"""`dof bench`: a suite of runs as a queue that can be killed and goes on, with one row of results a run."""
