"""What the project needs around the library: sample pictures, and what a cluster is given."""
