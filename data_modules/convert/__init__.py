"""Episodes that others have stored, brought into our shards, and our shards written as theirs."""
