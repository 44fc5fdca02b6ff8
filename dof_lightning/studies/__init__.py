"""Studies: several runs that answer one question together, with the table and figure made from them."""
