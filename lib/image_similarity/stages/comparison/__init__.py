"""neighbours by several fingerprints, manifest -> their agreement, how well each finds a known label, and a report.

    <report>/index.html             tables, the plot, and images on which two fingerprints disagree; replaced last
    <report>/report.json            the renderings in this folder
    <report>/<rendering>/           the files that the page shows: plot.svg, report.css, pictures/*.webp

`measures` computes with Spark. It brings no lists of neighbours to the driver, except those of the few images that are
shown. `cards` makes the pictures of these images in the workers. `plot` and `report` draw and write the results, which
are small.
"""
