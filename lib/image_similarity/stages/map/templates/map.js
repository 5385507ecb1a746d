"use strict";
/* The map. Leaflet moves a wall of tiles; pictures, names of regions, a ring, a panel and a search come on top of it. All data are
   scripts below map/<run>/ that call window.map, because pages opened from the file system may load nothing else. What is missing is
   an empty place on the wall, and no error.

   A cell is the place of one image. A node of a level is a square of cells that one of their images stands for; a tile has 4 x 4 nodes.
   Zoom z shows level z: a node is 64 pixels wide. Deeper than the last level, pictures of the gallery hang in the cells. */
(() => {
  const CELL = 64, TILE = 256, ACROSS = 4, LEVELS_OF_BLOCK = 3;
  const ENLARGEMENTS = 3, CLOSE = 2; // zooms beyond the last level: the most there are, and where a flight ends
  const MOST_MATCHES = 12, IDLE = 180; // ms without a key before a search
  const PAGE = /^[0-9a-f]{32}$/;
  const id = (name) => document.getElementById(name);
  const wall = id("wall"), frame = id("map"), panel = id("panel");
  const { run } = wall.dataset;
  const [columns, rows, deepest, digits, small] = ["columns", "rows", "levels", "digits", "small"].map((name) => Number(wall.dataset[name]));
  const first = (deepest + 1) % LEVELS_OF_BLOCK; // blocks end on the deepest level; those that begin on level 0 may have fewer levels
  const depthOf = (level) => (level < first ? level : (level - first) % LEVELS_OF_BLOCK);
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const isNarrow = matchMedia("(max-width: 44rem)");
  const dense = devicePixelRatio >= 1.5 ? 1 : 0; // such screens get tiles of one level deeper, at half their size

  function element(name, properties, ...children) {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  }

  /* -- data: each script is loaded once; null where it is missing -- */
  const loads = new Map(), arrivals = new Map();
  const arrived = (name, value) => arrivals.get(name)?.(value);
  window.map = {
    block: (key, block) => arrived(`blocks/${key}`, block),
    places: (prefix, places) => arrived(`places/${prefix || "all"}`, places),
  };
  function load(name) {
    if (!loads.has(name)) {
      loads.set(name, new Promise((resolve) => {
        arrivals.set(name, resolve);
        const script = element("script", { src: `map/${run}/${name}.js` });
        script.onload = script.onerror = () => { script.remove(); resolve(null); };
        document.head.append(script);
      }));
    }
    return loads.get(name);
  }
  async function placeOf(page) {
    const places = await load(`places/${page.slice(0, digits) || "all"}`);
    return places?.[page] ?? null;
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
  const smallOf = (picture) => `pictures/${picture.slice(0, 2)}/${picture}-small.webp`;
  const pageOf = (page) => `images/${page.slice(0, 2)}/${page}.html`;

  /* -- the wall: a cell at zoom `deepest` is CELL pixels wide; y grows downwards -- */
  const unit = CELL / 2 ** deepest;
  const at = (column, row) => L.latLng(row * unit, column * unit);
  const whole = L.latLngBounds(at(0, 0), at(columns, rows));
  const map = L.map(frame, {
    crs: { ...L.CRS.Simple, transformation: L.transformation(1, 0, 1, 0) },
    attributionControl: false, zoomControl: false, scrollWheelZoom: false, bounceAtZoomLimits: false,
    zoomSnap: 0, minZoom: -9, maxZoom: deepest + ENLARGEMENTS, keyboardPanDelta: 120,
    fadeAnimation: !isStill, zoomAnimation: !isStill, markerZoomAnimation: !isStill, inertia: !isStill,
  });
  const levelAt = (zoom) => Math.max(0, Math.min(deepest, Math.round(zoom)));
  function fitting() {
    /* The zoom and the centre at which the whole wall is seen. The last nodes of a level may reach beyond the wall. */
    const { x, y } = map.getSize(), margin = 2 * Math.min(24, Math.min(x, y) / 30);
    const zoomOf = (across, down) => Math.min(Math.log2((x - margin) / (across * unit)), Math.log2((y - margin) / (down * unit)), map.getMaxZoom());
    const node = 2 ** (deepest - levelAt(zoomOf(columns, rows) + dense));
    const [across, down] = [columns, rows].map((cells) => Math.ceil(cells / node) * node);
    return { zoom: zoomOf(across, down), centre: at(across / 2, down / 2) };
  }
  let fitted = fitting();
  const fit = (animate) => map.setView(fitted.centre, fitted.zoom, { animate });
  fit(false).setMinZoom(fitted.zoom).setMaxBounds(whole.pad(0.5));
  map.on("resize", () => {
    const isWhole = map.getZoom() < fitted.zoom + 0.01;
    fitted = fitting();
    map.options.minZoom = fitted.zoom;
    if (isWhole || map.getZoom() < fitted.zoom) fit(false);
  });
  map.on("zoomstart", () => frame.classList.add("zooming")).on("zoomend", () => frame.classList.remove("zooming"));
  const levelShown = () => levelAt(map.getZoom() + dense);

  const Layer = L.GridLayer.extend({
    _addTile(coords, container) {
      /* Leaflet moves each tile by a transform of three dimensions, which gives it a layer of its own in the browser. Hundreds of them
         take longer than a frame. */
      L.GridLayer.prototype._addTile.call(this, coords, container);
      const { el } = this._tiles[this._tileCoordsToKey(coords)], { x, y } = L.DomUtil.getPosition(el);
      Object.assign(el.style, { transform: "", left: `${x}px`, top: `${y}px` });
    },
  });
  const Tiles = Layer.extend({
    createTile({ x, y, z }, done) {
      const tile = element("img", { alt: "", decoding: "async" });
      tile.onload = () => done(null, tile);
      tile.onerror = () => { tile.removeAttribute("src"); done(null, tile); };
      tileAt(z + dense, x, y).then((address) => address ? tile.src = address : done(null, tile));
      return tile;
    },
  });
  new Tiles({ tileSize: TILE >> dense, minNativeZoom: -dense, maxNativeZoom: deepest - dense, minZoom: -9, maxZoom: deepest + ENLARGEMENTS, bounds: whole }).addTo(map);

  /* Beyond the last level its cells are enlarged. A cell keeps its piece of a tile until its picture is there, and where it is gone. */
  const Pictures = Layer.extend({
    createTile({ x, y }, done) {
      const cell = element("div", {});
      imageAt(deepest, x, y).then((image) => {
        if (!image?.picture) return done(null, cell);
        const picture = element("img", { alt: "", decoding: "async" });
        picture.onload = () => { cell.classList.add("hung"); cell.append(picture); done(null, cell); };
        picture.onerror = () => done(null, cell);
        picture.src = smallOf(image.picture);
      });
      return cell;
    },
  });
  new Pictures({ tileSize: CELL, minNativeZoom: deepest, maxNativeZoom: deepest, minZoom: deepest + 1, maxZoom: deepest + ENLARGEMENTS, bounds: whole }).addTo(map);

  /* -- the wheel zooms towards the pointer, smoothly, by Leaflet's own steps of a pinch -- */
  let goal = null, pointer = null;
  function zoomOn() {
    const rest = goal - map.getZoom(), isThere = Math.abs(rest) < 0.004 || isStill;
    const zoom = isThere ? goal : map.getZoom() + 0.28 * rest;
    const middle = map.getSize().divideBy(2), moved = pointer.subtract(middle).multiplyBy(1 - 1 / map.getZoomScale(zoom));
    const centre = map._limitCenter(map.containerPointToLatLng(middle.add(moved)), zoom, map.options.maxBounds);
    map._move(centre, zoom, { pinch: true, round: false });
    if (!isThere) return requestAnimationFrame(zoomOn);
    goal = null;
    map._moveEnd(true);
  }
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaY * [1, 20, 300][event.deltaMode], isBegun = goal !== null;
    const wanted = (goal ?? map.getZoom()) - pixels * (event.ctrlKey ? 0.01 : 0.003);
    goal = Math.max(map.getMinZoom(), Math.min(map.getMaxZoom(), wanted));
    pointer = map.mouseEventToContainerPoint(event);
    if (isBegun) return;
    map._stop();
    map._moveStart(true, false);
    requestAnimationFrame(zoomOn);
  }, { passive: false });

  /* -- names of regions -- */
  const labels = new Map();
  let asked = 0;
  async function label() {
    const mine = ++asked, level = levelAt(map.getZoom());
    const names = Math.round(map.getZoom()) > Math.max(deepest, Math.round(fitted.zoom)) ? [] : await namesIn(map.getBounds().pad(0.1), level);
    if (mine !== asked) return;
    const kept = new Map(apart(names).map((name) => [`${level}/${name.column}/${name.row}/${name.text}`, name]));
    for (const [key, marker] of labels) if (!kept.has(key)) { marker.remove(); labels.delete(key); }
    for (const [key, name] of kept) if (!labels.has(key)) labels.set(key, nameplate(name).addTo(map));
  }
  async function namesIn(bounds, level) {
    /* Each with its place in cells. */
    const node = 2 ** (deepest - level), across = ACROSS << depthOf(level), span = node * across * unit;
    const [left, top] = [bounds.getWest(), bounds.getSouth()].map((edge) => Math.max(0, Math.floor(edge / span)));
    const right = Math.min(bounds.getEast(), columns * unit - unit / 2), bottom = Math.min(bounds.getNorth(), rows * unit - unit / 2);
    const blocks = [];
    for (let x = left; x * span <= right; x++) {
      for (let y = top; y * span <= bottom; y++) blocks.push(blockOf(level, x << depthOf(level), y << depthOf(level)));
    }
    const all = (await Promise.all(blocks)).flatMap((block) => block?.levels[depthOf(level)]?.labels ?? []);
    return all.map(([column, row, text, images]) => ({ column: column * node, row: row * node, text, images }))
      .filter(({ column, row }) => bounds.contains(at(column, row)));
  }
  function cellsIn(bounds) {
    const along = (from, to, cells) => Math.max(0, Math.min(cells, to / unit) - Math.max(0, from / unit));
    return along(bounds.getWest(), bounds.getEast(), columns) * along(bounds.getSouth(), bounds.getNorth(), rows);
  }
  function apart(names) {
    /* Those that do not lie on one of more images. Widths are estimated: measuring them would take a layout. */
    const taken = [], inView = cellsIn(map.getBounds());
    return names.sort((a, b) => b.images - a.images || (a.text < b.text ? -1 : 1)).filter((name) => {
      name.size = name.images > inView / 12 ? "large" : name.images > inView / 30 ? "medium" : "little";
      const em = { large: 24, medium: 19, little: 16 }[name.size], { x, y } = map.latLngToContainerPoint(at(name.column, name.row));
      const box = { x, y, width: em * (0.55 * name.text.length + 1.5), height: em * 2 };
      const isFree = taken.every((other) => Math.abs(other.x - x) > (other.width + box.width) / 2 || Math.abs(other.y - y) > (other.height + box.height) / 2);
      if (isFree) taken.push(box);
      return isFree;
    });
  }
  function nameplate({ column, row, text, size }) {
    const html = element("span", { textContent: text, dir: "auto" });
    return L.marker(at(column, row), { icon: L.divIcon({ className: `region ${size}`, html, iconSize: null }), interactive: false, keyboard: false, zIndexOffset: 10000 });
  }
  map.on("zoomend moveend", label);

  /* -- the ring around the image that the panel shows: around the node that shows it, or its cell where another stands for it -- */
  const ring = L.marker(at(0, 0), { icon: L.divIcon({ className: "ring", iconSize: [CELL, CELL] }), interactive: false, keyboard: false });
  let shown = null; // { page, ..., place: [column, row] or null }
  async function mark() {
    const image = shown;
    if (!image?.place) return void ring.remove();
    const level = levelShown(), node = 2 ** (deepest - level), [column, row] = image.place.map((cell) => Math.floor(cell / node));
    const isFar = (await imageAt(level, column, row))?.page !== image.page;
    if (image !== shown || level !== levelShown()) return;
    const [x, y] = isFar ? image.place.map((cell) => cell + 0.5) : [(column + 0.5) * node, (row + 0.5) * node];
    const side = Math.max(isFar ? 14 : 8, map.getZoomScale(map.getZoom(), 0) * unit * (isFar ? 1 : node) - 2);
    ring.setLatLng(at(x, y)).addTo(map);
    const { style, classList } = ring.getElement();
    style.width = style.height = `${side}px`;
    style.marginLeft = style.marginTop = `${-side / 2}px`;
    classList.toggle("far", isFar);
  }
  map.on("zoomend", mark);

  /* -- the panel -- */
  const address = (page = "") => location.href.split("#")[0] + (page && `#${page}`);
  function show(image, hasFocus) {
    shown = image;
    const { page, picture, width, height, title, subtitle } = image, scale = Math.min(1, small / Math.max(width, height));
    const shot = element("img", { width, height, alt: "", sizes: "22rem" });
    shot.onerror = () => shot.remove();
    if (scale < 1) shot.srcset = `${smallOf(picture)} ${Math.round(width * scale)}w, ${smallOf(picture).replace("-small", "-large")} ${width}w`;
    shot.src = smallOf(picture);
    id("picture").replaceChildren(...(picture ? [shot] : []));
    id("picture").ariaLabel = title;
    id("name").textContent = title;
    id("note").textContent = subtitle;
    id("picture").href = id("page").href = pageOf(page);
    id("copy").textContent = "Copy link";
    panel.hidden = false;
    panel.scrollTop = 0;
    wall.classList.add("open");
    history.replaceState(null, "", address(page));
    if (hasFocus) panel.focus({ preventScroll: true });
    mark();
  }
  function close() {
    if (panel.hidden) return;
    if (panel.contains(document.activeElement)) frame.focus({ preventScroll: true });
    panel.hidden = true;
    wall.classList.remove("open");
    shown = null;
    history.replaceState(null, "", address());
    mark();
  }
  function nodeAt({ lat, lng }) {
    const level = levelShown(), side = unit * 2 ** (deepest - level);
    return [level, Math.floor(lng / side), Math.floor(lat / side)];
  }
  async function openAt(latlng, hasFocus) {
    const image = await imageAt(...nodeAt(latlng));
    if (!image?.picture) return;
    show({ ...image, place: await placeOf(image.page) }, hasFocus);
    uncover(latlng);
  }
  function uncover(latlng) {
    /* Moves the map where the panel lies on the place. */
    const { x, y } = map.latLngToContainerPoint(latlng), room = Math.min(CELL * 2 ** Math.max(0, map.getZoom() - deepest), 2 * CELL);
    const hidden = isNarrow.matches ? [0, Math.max(0, y - panel.offsetTop + room)] : [Math.max(0, x - panel.offsetLeft + room), 0];
    map.panBy(hidden, { animate: !isStill });
  }
  function fly([column, row]) {
    /* The image comes to the middle of what the panel leaves free. */
    const zoom = Math.max(map.getZoom(), deepest + CLOSE), covered = panel.hidden ? [0, 0] : isNarrow.matches ? [0, panel.offsetHeight] : [panel.offsetWidth, 0];
    const centre = map.unproject(map.project(at(column + 0.5, row + 0.5), zoom).add(L.point(covered).divideBy(2)), zoom);
    if (isStill) map.setView(centre, zoom, { animate: false });
    else map.flyTo(centre, zoom, { duration: 1.4 });
  }
  async function flyTo(page, hasFocus) {
    /* Whether it is on the map. */
    const place = await placeOf(page), image = place && await imageAt(deepest, ...place);
    if (!image) return false;
    show({ ...image, place }, hasFocus);
    fly(place);
    return true;
  }
  map.on("click", ({ latlng }) => openAt(latlng, false));
  map.on("mousemove", async ({ latlng }) => frame.classList.toggle("over", Boolean((await imageAt(...nodeAt(latlng)))?.picture)));
  id("close").addEventListener("click", close);
  id("near").addEventListener("click", () => shown?.place && fly(shown.place));
  id("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(address(shown.page));
      id("copy").textContent = "Copied";
    } catch {
      id("copy").textContent = "It is this page's address"; // a page of plain http has no clipboard, or it was refused
    }
  });

  /* -- keys: Leaflet moves and zooms; the middle is marked meanwhile -- */
  async function middle() {
    if (wall.classList.contains("keyless")) return;
    const image = await imageAt(...nodeAt(map.getCenter()));
    id("middle").textContent = image?.title ?? "";
  }
  map.on("moveend", middle);
  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== frame) return;
    if (event.key === "Enter") openAt(map.getCenter(), true);
    else if (!/^(Arrow|[-+=_]$)/.test(event.key)) return;
    middle();
  });
  frame.addEventListener("focus", middle);
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Tab" || document.activeElement === frame) wall.classList.remove("keyless");
  }, { capture: true });
  for (const name of ["pointerdown", "wheel"]) wall.addEventListener(name, () => wall.classList.add("keyless"), { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (id("matches").hasChildNodes() || id("matched").textContent) {
      if (id("matches").contains(document.activeElement)) id("sought").focus();
      clear();
    } else close();
  });
  id("in").addEventListener("click", () => map.zoomIn(1));
  id("out").addEventListener("click", () => map.zoomOut(1));
  id("fit").addEventListener("click", () => fit(!isStill));

  /* -- search, by the gallery's words -- */
  let searches = 0, timer = 0;
  function clear() {
    searches++;
    id("matches").replaceChildren();
    id("matched").textContent = "";
  }
  async function search() {
    clearTimeout(timer);
    const query = id("sought").value.trim(), mine = searches + 1;
    clear();
    if (!query) return;
    const { images, isPartial, cards } = await window.gallery.find(query, MOST_MATCHES);
    if (mine !== searches) return;
    const number = images.toLocaleString("en");
    id("matched").textContent = !images ? `Nothing found for “${query}”` : images > cards.length ? `The first ${cards.length} of ${isPartial ? "more than " : ""}${number} images` : `${number} image${images === 1 ? "" : "s"}`;
    id("matches").replaceChildren(...cards.map(match));
  }
  function match([page, picture, , , title, subtitle]) {
    const shot = picture ? element("img", { src: smallOf(picture), alt: "" }) : element("span", { className: "absent" });
    const words = element("span", { dir: "auto" }, title, element("span", { className: "note", textContent: subtitle }));
    const choice = element("button", { type: "button" }, shot, words);
    choice.addEventListener("click", () => choose(page, title));
    return element("li", {}, choice);
  }
  async function choose(page, title) {
    if (await flyTo(page, true)) return clear();
    id("matched").replaceChildren(`“${title}” is not on the map: `, element("a", { href: pageOf(page), textContent: "its page" }));
  }
  const report = (error) => { id("matched").textContent = `The search could not be done: ${error.message}`; };
  id("sought").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => search().catch(report), IDLE); });
  id("seek").addEventListener("submit", (event) => {
    event.preventDefault();
    search().then(() => id("matches").querySelector("button")?.click()).catch(report);
  });
  id("seek").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const stops = [id("sought"), ...id("matches").querySelectorAll("button")];
    stops[Math.max(0, Math.min(stops.length - 1, stops.indexOf(document.activeElement) + step))].focus();
  });

  /* -- the address may name an image -- */
  async function follow() {
    const page = location.hash.slice(1);
    if (!PAGE.test(page) || page === shown?.page || await flyTo(page, false)) return;
    id("matched").replaceChildren("This image is not on the map: ", element("a", { href: pageOf(page), textContent: "its page" }));
  }
  window.addEventListener("hashchange", follow);

  id("key").open = true;
  id("key").open = map.latLngToContainerPoint(at(0, 0)).x > id("key").offsetLeft + id("key").offsetWidth; // else it would lie on the wall
  for (const name of ["seek", "zoom"]) id(name).hidden = false;
  label();
  follow();
})();
