"""No Spark: arrays in, arrays out. Each kernel can be used, tested and timed alone."""
