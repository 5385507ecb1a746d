"""Where images lie on the map, so that those that look alike are side by side. Arrays in, arrays out."""
