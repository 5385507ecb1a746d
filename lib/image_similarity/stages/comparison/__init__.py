"""neighbours by several fingerprints, manifest -> how far they agree, how well each finds a known label, and a report.

    <report>/index.html                  tables, the plot, and images about which two fingerprints disagree; replaced
    last <report>/report.json                 which renderings are here <report>/<rendering>/                what the
    page shows: plot.svg, report.css, pictures/*.webp

`measures` computes with Spark, and never brings lists of neighbours to the driver, but for the few images that are
shown; `cards` makes their pictures in the workers; `plot` and `report` draw and write what is left, which is small."""
