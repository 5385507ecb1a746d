"""neighbours, and the pictures of a rendered gallery -> the map: a layout, its tiles, and a page that shows them."""
