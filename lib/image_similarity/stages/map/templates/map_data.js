"use strict";
/* What is on the map, for map.js. All data are scripts below map/<run>/ that call window.map, because pages opened from the file system
   may load nothing else. What is missing is an empty place on the wall, and no error.

   A cell is the place of one image. A node of a level is a square of cells that one of their images stands for; a tile has 4 x 4 nodes. */
(() => {
  const ACROSS = 4, LEVELS_OF_BLOCK = 3;
  const { run, ...numbers } = document.getElementById("wall").dataset;
  const [columns, rows, deepest, digits] = ["columns", "rows", "levels", "digits"].map((name) => Number(numbers[name]));
  const first = (deepest + 1) % LEVELS_OF_BLOCK; // blocks end on the deepest level; those that begin on level 0 may have fewer levels
  const depthOf = (level) => (level < first ? level : (level - first) % LEVELS_OF_BLOCK);

  /* -- scripts: each is loaded once; null where it is missing -- */
  const loads = new Map(), arrivals = new Map();
  const arrived = (name, value) => arrivals.get(name)?.(value);
  function load(name) {
    if (!loads.has(name)) {
      loads.set(name, new Promise((resolve) => {
        arrivals.set(name, resolve);
        const script = Object.assign(document.createElement("script"), { src: `map/${run}/${name}.js` });
        script.onload = script.onerror = () => { script.remove(); resolve(null); };
        document.head.append(script);
      }));
    }
    return loads.get(name);
  }

  async function placeOf(page) {
    /* [column, row]; null if the image is not on the map; undefined if that cannot be read. */
    const places = await load(`places/${page.slice(0, digits) || "all"}`);
    return places ? places[page] ?? null : undefined;
  }
  async function blockOf(level, x, y) {
    /* The block that has tile (x, y) of the level; null if no image is there. A block is asked for only where the one above it shows an
       image, so no file is missed that was never written. */
    const depth = depthOf(level), top = level - depth, [column, row] = [x >> depth, y >> depth];
    if (top) {
      const above = await imageAt(top - 1, 2 * column, 2 * row) ?? await imageAt(top - 1, 2 * column + 1, 2 * row)
        ?? await imageAt(top - 1, 2 * column, 2 * row + 1) ?? await imageAt(top - 1, 2 * column + 1, 2 * row + 1);
      if (!above) return null;
    }
    return load(`blocks/${top}-${column}-${row}`);
  }
  async function imageAt(level, column, row) {
    /* The image that a node shows; null if none. */
    const isOnWall = column >= 0 && row >= 0 && column << deepest - level < columns && row << deepest - level < rows;
    const block = isOnWall ? await blockOf(level, Math.floor(column / ACROSS), Math.floor(row / ACROSS)) : null;
    const depth = depthOf(level), across = ACROSS << depth;
    const entry = block?.images[block.levels[depth]?.nodes[row % across * across + column % across]];
    if (!entry) return null;
    const [page, picture, width, height, title, subtitle] = entry; // the picture is empty where it cannot be read
    return { page, picture, width, height, title, subtitle };
  }
  async function tileAt(level, x, y) {
    const block = await blockOf(level, x, y);
    const hash = block?.levels[depthOf(level)]?.tiles[`${x}-${y}`];
    return hash && `map/tiles/${hash.slice(0, 2)}/${hash}.webp`;
  }

  async function filled() {
    /* The cells that have images, as exactly as the first block tells: left, top, right, bottom. */
    const block = await blockOf(0, 0, 0);
    if (!block) return [0, 0, columns, rows];
    const depth = block.levels.length - 1, across = ACROSS << depth, node = 2 ** (deepest - depth);
    const used = [...block.levels[depth].nodes.keys()].filter((place) => block.levels[depth].nodes[place] >= 0);
    const [x, y] = [used.map((place) => place % across), used.map((place) => Math.floor(place / across))];
    return [Math.min(...x), Math.min(...y), Math.max(...x) + 1, Math.max(...y) + 1].map((edge) => edge * node);
  }

  window.map = {
    block: (key, block) => arrived(`blocks/${key}`, block), // the scripts call these two
    places: (prefix, places) => arrived(`places/${prefix || "all"}`, places),
    ACROSS, depthOf, placeOf, blockOf, imageAt, tileAt, filled,
  };
})();
