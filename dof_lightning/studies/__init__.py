"""Studies: several runs that answer one question together, and the table and figure that are made of them."""
