"use strict";
/* The map. Leaflet moves a wall of tiles; pictures, names of regions, a ring, a panel and a search come on top of it. map_data.js says
   what is on it, and what cells and nodes are.

   Zoom z shows level z: a node is 64 pixels wide. Deeper than the last level, pictures of the gallery hang in the cells. */
(() => {
  const { ACROSS, depthOf, placeOf, blockOf, imageAt, tileAt, filled } = window.map;
  const CELL = 64, TILE = 256;
  const ENLARGEMENTS = 3, CLOSE = 2; // zooms beyond the last level: the most there are, and where a flight ends
  const LARGER = 1.5, IN_A_ROW = 3; // a view that fills the screen: how much larger than the whole wall it must be, and fewest cells in a row
  const LOOSE = 0.5, SHIFTED = 2; // how far the map may leave the wall, in walls; with a panel, farther: it may lie on an image
  const MOST_MATCHES = 12, IDLE = 180; // ms without a key before a search
  const PAGE = /^[0-9a-f]{32}$/;
  const id = (name) => document.getElementById(name);
  const wall = id("wall"), frame = id("map"), panel = id("panel");
  const [columns, rows, deepest, small] = ["columns", "rows", "levels", "small"].map((name) => Number(wall.dataset[name]));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const dense = devicePixelRatio >= 1.5 ? 1 : 0; // such screens get tiles of one level deeper, at half their size

  function element(name, properties, ...children) {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  }
  function questions() {
    /* Numbers the questions of one kind. Each gets a function that says whether it is still the last one: the answer to an earlier one
       may come later, and is dropped. */
    let last = 0;
    return () => {
      const mine = ++last;
      return () => mine === last;
    };
  }
  const smallOf = (picture) => `pictures/${picture.slice(0, 2)}/${picture}-small.webp`;
  const pageOf = (page) => `images/${page.slice(0, 2)}/${page}.html`;

  /* -- the wall: a cell at zoom `deepest` is CELL pixels wide; y grows downwards -- */
  const unit = CELL / 2 ** deepest;
  const at = (column, row) => L.latLng(row * unit, column * unit);
  const whole = L.latLngBounds(at(0, 0), at(columns, rows));
  const map = L.map(frame, {
    crs: { ...L.CRS.Simple, transformation: L.transformation(1, 0, 1, 0) },
    attributionControl: false, zoomControl: false, scrollWheelZoom: false, doubleClickZoom: false, bounceAtZoomLimits: false,
    zoomSnap: 0, minZoom: -9, maxZoom: deepest + ENLARGEMENTS, keyboardPanDelta: 120,
  });
  /* Who asks for less motion gets none, whatever moves the map: Leaflet's keys too, and its way back to the wall. */
  const calm = (options) => (still.matches ? { ...options, animate: false } : options);
  const { setView, panBy } = map;
  map.setView = (centre, zoom, options) => setView.call(map, centre, zoom, calm(options));
  map.panBy = (offset, options) => panBy.call(map, offset, calm(options));
  function tune() {
    map._fadeAnimated = map.options.inertia = map.options.zoomAnimation = !still.matches;
  }
  still.addEventListener("change", tune);
  tune();
  const levelAt = (zoom) => Math.max(0, Math.min(deepest, Math.round(zoom)));
  for (const name of ["seek", "zoom"]) id(name).hidden = false;
  let used = [0, 0, columns, rows]; // left, top, right, bottom
  const marginOf = ({ x, y }) => Math.min(24, Math.min(x, y) / 30);
  function extentAt(zoom) {
    /* Columns and rows that are drawn at this zoom. The last nodes of a level may reach beyond the wall. */
    const node = 2 ** (deepest - levelAt(zoom + dense)), [left, top, right, bottom] = used;
    const drawn = (cells, end) => Math.min(end, Math.ceil(cells / node) * node);
    return [drawn(columns, right) - left, drawn(rows, bottom) - top];
  }
  const centreOf = ([across, down]) => [used[0] + across / 2, used[1] + down / 2]; // in cells
  const room = () => [id("seek").offsetTop + id("sought").offsetHeight, id("zoom").offsetTop]; // between search and buttons
  function fitting() {
    /* The zoom and the centre at which the whole wall is seen. Where it would lie under half of the field of the search, it begins below
       it: a corner under it is better than a smaller wall. On a tall screen there may be room between search and buttons. */
    const { x, y } = map.getSize(), margin = marginOf({ x, y }), [above, below] = room();
    const zoomOf = ([across, down], height) =>
      Math.min(Math.log2((x - 2 * margin) / (across * unit)), Math.log2(Math.max(1, height - 2 * margin) / (down * unit)), map.getMaxZoom());
    const extent = extentAt(zoomOf([columns, rows], y)), [across, down] = extent, [column, row] = centreOf(extent);
    function between(from, to) {
      const zoom = zoomOf(extent, to - from), cell = unit * 2 ** zoom;
      return { zoom, cell, centre: at(column, row - ((from + to) / 2 - y / 2) / cell) };
    }
    const best = between(0, y), inRoom = between(above, below);
    if (y > x && inRoom.zoom === best.zoom) return inRoom;
    const isUnder = x / 2 - across / 2 * best.cell < id("seek").offsetLeft + id("seek").offsetWidth / 2 && y / 2 - down / 2 * best.cell < above;
    return isUnder ? between(above, y) : best;
  }
  function filling() {
    /* The zoom and the centre at which the wall is as high as the room between search and buttons, and its middle is seen. */
    const size = map.getSize(), margin = marginOf(size), [above, below] = room();
    const zoomOf = (down) => Math.min(Math.log2(Math.max(1, below - above - 2 * margin) / (down * unit)), Math.log2(size.x / IN_A_ROW / unit), map.getMaxZoom());
    const extent = extentAt(zoomOf(rows)), zoom = zoomOf(extent[1]), [column, row] = centreOf(extent);
    return { zoom, centre: at(column, row - ((above + below) / 2 - size.y / 2) / (unit * 2 ** zoom)) };
  }
  function beginning() {
    /* The view that the page opens with: the whole wall. On a screen that is much taller than it, that would be a small band on an empty
       ground: there the wall fills the height, and goes on at both sides. */
    const full = filling();
    return full.zoom > fitted.zoom + Math.log2(LARGER) ? full : fitted;
  }
  let fitted = fitting(), first = beginning(), isUntouched = true; // nobody has moved the map
  const go = ({ centre, zoom }, options) => map.setView(centre, zoom, options);
  function refit() {
    const isWhole = map.getZoom() < fitted.zoom + 0.01;
    fitted = fitting();
    first = beginning();
    map.options.minZoom = fitted.zoom;
    const isLeft = shown?.place; // a flight goes on, also where a phone's keyboard goes away meanwhile
    const view = isUntouched ? first : isWhole || map.getZoom() < fitted.zoom ? fitted : null;
    if (view && !isLeft) go(view, { animate: false, pan: { noMoveStart: true } });
    id("afar").hidden = levelAt(fitted.zoom + dense) === deepest; // all are seen
  }
  go(first, { animate: false }).setMinZoom(fitted.zoom).setMaxBounds(whole.pad(LOOSE));
  map.on("movestart", () => { isUntouched &&= map._enforcingBounds; }); // Leaflet itself moves it back to the wall
  map.on("resize", refit);
  filled().then((edges) => { used = edges; refit(); follow(); });
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
    getEvents() {
      /* Leaflet keeps all tiles while fingers or the wheel zoom. Those of a layer that is not shown any more would stay afterwards. */
      const zoomend = () => { this._noPrune = false; this._pruneTiles(); };
      return { ...L.GridLayer.prototype.getEvents.call(this), zoomend };
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
  new Pictures({ tileSize: CELL, minNativeZoom: deepest, maxNativeZoom: deepest, minZoom: deepest + 0.5 - dense, maxZoom: deepest + ENLARGEMENTS, bounds: whole }).addTo(map);

  /* -- the wheel zooms towards the pointer, smoothly, by Leaflet's own steps of a pinch -- */
  let goal = null, pointer = null;
  function zoomOn() {
    if (goal === null) return;
    const rest = goal - map.getZoom(), isThere = Math.abs(rest) < 0.004 || still.matches;
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
    if (!isBegun) map._stop()._moveStart(true, false);
    goal = Math.max(map.getMinZoom(), Math.min(map.getMaxZoom(), wanted));
    pointer = map.mouseEventToContainerPoint(event);
    if (!isBegun) requestAnimationFrame(zoomOn);
  }, { passive: false });
  map.on("movestart", () => { // something else moves the map
    if (goal === null) return;
    goal = null;
    map._moveEnd(true);
  });

  /* -- names of regions -- */
  const labels = new Map();
  const askLabels = questions();
  async function label() {
    const isLast = askLabels(), level = levelAt(map.getZoom());
    const names = Math.round(map.getZoom()) > Math.max(deepest, Math.round(first.zoom)) ? [] : await namesIn(map.getBounds().pad(0.1), level);
    if (!isLast()) return;
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
    const absent = element("span", { className: "absent", textContent: "Its picture cannot be read" });
    shot.onerror = () => shot.replaceWith(absent);
    if (picture && scale < 1) shot.srcset = `${smallOf(picture)} ${Math.round(width * scale)}w, ${smallOf(picture).replace("-small", "-large")} ${width}w`;
    if (picture) shot.src = smallOf(picture);
    id("picture").replaceChildren(picture ? shot : absent);
    id("picture").ariaLabel = title;
    id("name").textContent = title;
    id("note").textContent = subtitle;
    id("picture").href = id("page").href = pageOf(page);
    id("near").hidden = !image.place;
    id("copy").textContent = "Copy link";
    panel.hidden = false;
    panel.scrollTop = 0;
    wall.classList.add("open");
    history.replaceState(null, "", address(page));
    if (hasFocus) panel.focus({ preventScroll: true });
    map.setMaxBounds(whole.pad(SHIFTED));
    mark();
  }
  const askImage = questions();
  map.on("movestart", askImage); // who moves the map meanwhile does not wait for an image any more
  function hide() {
    askImage();
    if (panel.contains(document.activeElement)) frame.focus({ preventScroll: true });
    panel.hidden = true;
    wall.classList.remove("open");
    shown = null;
    map.setMaxBounds(whole.pad(LOOSE));
    mark();
  }
  function close() {
    hide();
    if (location.hash) history.replaceState(null, "", address());
  }
  function nodeAt({ lat, lng }) {
    const level = levelShown(), side = unit * 2 ** (deepest - level);
    return [level, Math.floor(lng / side), Math.floor(lat / side)];
  }
  async function openAt(latlng, hasFocus) {
    const isLast = askImage(), image = await imageAt(...nodeAt(latlng)), place = image && await placeOf(image.page);
    if (!isLast()) return;
    if (!image) return close();
    clear();
    show({ ...image, place }, hasFocus);
    uncover(latlng);
  }
  const isAtBottom = () => panel.offsetWidth === wall.clientWidth; // it lies at the side or, on narrow screens, below
  function uncover(latlng) {
    /* Moves the map where the panel lies on the place. */
    const place = map.latLngToContainerPoint(latlng), room = Math.min(CELL * 2 ** Math.max(0, map.getZoom() - deepest), 2 * CELL);
    const [across, down] = [place.x - panel.offsetLeft + room, place.y - panel.offsetTop + room];
    if (Math.min(across, down) > 0) map.panBy(isAtBottom() ? [0, down] : [across, 0]);
  }
  function fly([column, row]) {
    /* The image comes to the middle of what the panel leaves free. */
    const zoom = Math.max(map.getZoom(), deepest + CLOSE), covered = panel.hidden ? [0, 0] : isAtBottom() ? [0, panel.offsetHeight] : [panel.offsetWidth, 0];
    const centre = map.unproject(map.project(at(column + 0.5, row + 0.5), zoom).add(L.point(covered).divideBy(2)), zoom);
    map.flyTo(centre, zoom, calm({ duration: 1.4 }));
  }
  async function flyTo(page, hasFocus) {
    /* Why the image is not shown; empty if it is, or if something else was asked for meanwhile. */
    const isLast = askImage(), place = await placeOf(page), image = place && await imageAt(deepest, ...place);
    if (!isLast()) return "";
    if (!image) return place === null ? "is not on the map" : "cannot be shown: a file of the map could not be loaded";
    clear();
    show({ ...image, place }, hasFocus);
    fly(place);
    return "";
  }
  map.on("click", ({ latlng, originalEvent }) => { if (originalEvent.detail < 2) openAt(latlng, false); }); // a double click opens once
  const askPointer = questions();
  map.on("mousemove", async ({ latlng }) => {
    const isLast = askPointer(), image = await imageAt(...nodeAt(latlng));
    if (isLast()) frame.classList.toggle("over", Boolean(image));
  });
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
  const askMiddle = questions();
  async function middle() {
    if (wall.classList.contains("keyless")) return;
    const isLast = askMiddle(), image = await imageAt(...nodeAt(map.getCenter()));
    if (isLast()) id("middle").textContent = image?.title ?? "";
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
  id("fit").addEventListener("click", () => { isUntouched = false; go(fitted); });

  /* -- search, by the gallery's words -- */
  const askSearch = questions();
  let timer = 0;
  function clear() {
    /* What was looked for, and is not there yet, is dropped too. */
    askSearch();
    askImage();
    clearTimeout(timer);
    id("matches").replaceChildren();
    id("matched").textContent = "";
  }
  async function search() {
    clear();
    const query = id("sought").value.trim(), isLast = askSearch();
    if (!query) return;
    const { images, isPartial, cards } = await window.gallery.find(query, MOST_MATCHES);
    if (!isLast()) return;
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
    const reason = await flyTo(page, true);
    if (reason) id("matched").replaceChildren(`“${title}” ${reason}: `, element("a", { href: pageOf(page), textContent: "its page" }));
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
    if (!page) return close();
    if (!PAGE.test(page) || page === shown?.page) return;
    const reason = await flyTo(page, false);
    if (!reason) return;
    hide();
    id("matched").textContent = `This image ${reason}.`;
  }
  window.addEventListener("hashchange", follow);

  /* -- the legend is open where it lies beside the wall, until somebody opens or closes it -- */
  let isKeyTouched = false;
  function unfold() {
    if (isKeyTouched) return;
    id("key").open = true;
    const { offsetLeft, offsetTop, offsetWidth } = id("key"), isBelow = offsetTop > id("seek").offsetTop + id("seek").offsetHeight;
    id("key").open = isBelow && map.latLngToContainerPoint(at(0, 0)).x > offsetLeft + offsetWidth;
  }
  id("key").querySelector("summary").addEventListener("click", () => { isKeyTouched = true; });
  id("key").hidden = false;
  unfold();
  map.on("resize", unfold);
  label();
  if (performance.getEntriesByType("navigation")[0]?.type === "back_forward") frame.focus({ preventScroll: true }); // keys go on here
  wall.append(element("img", { className: "paper", src: wall.dataset.picture, loading: "lazy", alt: frame.ariaLabel })); // to be printed
})();
