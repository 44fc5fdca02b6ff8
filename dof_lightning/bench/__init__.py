"""`dof bench`: a suite of runs as a queue that can be killed and resumed, with one row of results per run."""
