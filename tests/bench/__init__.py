"""What bin/bench runs: figures as ratios, and a recorded month through the exchange."""
