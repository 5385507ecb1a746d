"""manifest, embeddings, neighbours, failures -> a gallery: a folder of static pages.

    <gallery>/index.html                       the front page; replaced last
    <gallery>/gallery.json                     which renderings are here
    <gallery>/pictures/ab/<picture>-*.webp     small files of pictures, by content; kept from one rendering to the next
    <gallery>/<rendering>/                     all other pages of one rendering, and what they need

`render.run` makes a rendering, in which nobody looks yet; `Site.publish` (`image_similarity.pages.site`) puts its front
page in the place of the old one."""
