"""manifest, embeddings, neighbours, groups, quality, tags, failures -> a gallery: a folder of static pages.

    <gallery>/index.html                            the front page; replaced last
    <gallery>/images/ab/<hash of image_id>.html     the page of an image
    <gallery>/browse/, groups/, ..., search.html    lists and single pages (groups/: images by attribute)
    <gallery>/near-duplicates/, together/           groups of images: lists, and a page for each group
    <gallery>/quality/, odd/                        images in the order of a number
    <gallery>/tags/                                 images by tag
    <gallery>/pictures/ab/<picture>-*.webp          small files of pictures, by content; shared by renderings
    <gallery>/static/                               style and script, by content; shared by renderings
    <gallery>/map.html, map/                        the map, of another job; this one puts an empty map/link.js there
    <gallery>/<rendering>/                          no pages: data for search and shuffle, the list of pictures, and
                                                    what the map is made of
    <gallery>/gallery.json                          which renderings are here

Pages have the same addresses in every rendering, so that a link stays good for as long as the gallery is there. What a
page needs has the rendering or the hash of its content in its name, so that a page works beside pages of another
rendering.

`render.run` fills all pages, and keeps those that differ from the file at their address in the workspace of its run:
whatever can fail for what the images are fails here, with no page touched. Then `addresses.place` puts the pages at
their addresses, one by one, in an order that breaks no link (a folder can be swapped at once neither on an object store
nor for those who are reading), and `addresses.retire` replaces the pages of images that have left. A job that dies
among them leaves whole pages of two renderings. The next one need not know of it: it compares all pages, too.

``sources`` says which published tables are shown. A `layout.Layout` knows what is on the pages: ``in_process`` for a
collection that fits into memory (``in_memory``), which ``tables`` reads, and ``by_spark`` for others, which ``frames``
reads. ``about`` is what the pages say of the runs.
"""
