"""Images -> vectors: (n, height, width, 3) uint8 -> (n, d) float32."""
