"""The autoencoder in strips and in tiles."""
