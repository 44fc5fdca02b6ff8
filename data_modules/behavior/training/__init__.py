"""The online training of behaviour policies: `dof data train-behavior`."""
