"""What stands around the interface: who may ask, how much, how long, and how it ends."""
