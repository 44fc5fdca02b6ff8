"""`dof report`: tables, statistics and figures of finished runs, from run folders and results stores."""
