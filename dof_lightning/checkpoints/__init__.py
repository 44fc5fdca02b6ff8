"""What a checkpoint holds, and what is made of it without its dataset."""
