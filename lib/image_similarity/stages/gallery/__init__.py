"""manifest, embeddings, neighbours, failures -> a gallery: a folder of static pages.

    <gallery>/index.html                       the front page; replaced last
    <gallery>/gallery.json                     which renderings are here
    <gallery>/pictures/ab/<picture>-*.webp     small files of pictures, by content; shared by renderings
    <gallery>/<rendering>/                     all other pages of one rendering, and what they need

`render.run` makes a rendering that no visitor sees yet. `Site.publish` (`image_similarity.pages.site`) then replaces
the front page.
"""
