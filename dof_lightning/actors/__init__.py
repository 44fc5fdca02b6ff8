"""What acts once training is over; nothing here imports Lightning or Hydra."""
