"use strict";
/* Shuffles, searches, enlarges, copies, and remembers the switch between fingerprints. All data comes from the folder of the page's
   rendering, in scripts that call window.gallery, because pages opened from the file system may load nothing else. */
(() => {
  const root = new URL("..", document.currentScript.src);
  const { rendering, images, perShard } = document.body.dataset;
  const count = Number(images), shardSize = Number(perShard);
  const SMALL = {{ small }}, STEP = {{ ratio_step }}, STEPS = {{ ratio_steps }};
  const PAGE = 60, MOST_SHARDS = 12;

  /* -- shards; each is loaded once -- */
  const loaded = new Map(), waiting = new Map();
  const arrived = (key, value) => { loaded.set(key, value); waiting.get(key)?.(value); };
  let prefixes = [], isSmall = false;
  window.gallery = {
    cards: (shard, cards) => arrived(`data/${shard}`, cards),
    terms: (prefix, terms) => arrived(`search/${hex(prefix)}`, terms),
    prefixes: (all, small) => { prefixes = all; isSmall = small; },
    find, // for the map
    map: (facts) => showMap(facts), // map/link.js calls it, unless there is no map
  };
  const requested = new Map();
  function load(key) {
    if (!requested.has(key)) {
      requested.set(key, new Promise((resolve, reject) => {
        waiting.set(key, resolve);
        const script = document.createElement("script");
        script.src = new URL(`${rendering}/${key}.js`, root);
        script.onerror = () => reject(new Error(`${key}.js is missing`));
        document.head.append(script);
      }));
    }
    return requested.get(key);
  }
  function hex(text) {
    return Array.from(new TextEncoder().encode(text), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  async function cardAt(ordinal) {
    const cards = await load(`data/${Math.floor(ordinal / shardSize)}`);
    return cards[ordinal % shardSize];
  }

  /* -- cards, as in parts.html; text is never parsed as HTML -- */
  function element(name, properties, ...children) {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  }
  function breakable(text) {
    /* A long word may go on in the next line between a letter and a digit, and after _ . */
    const parts = /\S{9}/.test(text) ? text.replace(/([\p{L}])(?=\d)|(_)(?=[^_])/gu, "$&\n").split("\n") : [text];
    return parts.flatMap((part, position) => (position ? [document.createElement("wbr"), part] : [part]));
  }
  function shown([page, picture, width, height, title, subtitle, alt]) {
    const link = element("a", { href: new URL(`images/${page.slice(0, 2)}/${page}.html`, root).href });
    const item = element("li", { className: "card" }, link);
    if (picture) {
      const steps = Math.floor(Math.log(width / height) / Math.log(STEP) + 0.5);
      item.classList.add(`r${Math.max(-STEPS, Math.min(STEPS, steps))}`);
      const src = new URL(`pictures/${picture.slice(0, 2)}/${picture}-small.webp`, root).href;
      link.append(element("img", { width, height, alt, src }));
    } else {
      link.append(element("span", { className: "absent", textContent: "no picture" }));
    }
    const name = element("span", { className: "title", dir: "auto" }, ...breakable(title));
    if (picture) name.setAttribute("aria-hidden", "true");
    link.append(name);
    if (subtitle) link.append(element("span", { className: "note", dir: "auto" }, ...breakable(subtitle)));
    return item;
  }

  /* -- shuffle -- */
  const shuffle = document.getElementById("shuffle");
  if (shuffle) {
    const rows = document.querySelector("#selection .rows");
    const size = Math.min(rows.children.length, count);
    const status = document.getElementById("shuffled");
    shuffle.hidden = false;
    const draw = async () => {
      // A few random shards hold enough images, so a large collection is not loaded as a whole.
      const shards = Math.ceil(count / shardSize), chosen = new Set();
      while (chosen.size < Math.min(4, shards)) chosen.add(Math.floor(Math.random() * shards));
      const ordinals = [...chosen].flatMap((shard) =>
        Array.from({ length: Math.min(shardSize, count - shard * shardSize) }, (_, position) => shard * shardSize + position));
      const drawn = [];
      while (drawn.length < size && ordinals.length) {
        const [ordinal] = ordinals.splice(Math.floor(Math.random() * ordinals.length), 1);
        const card = await cardAt(ordinal);
        if (card[1]) drawn.push(card);
      }
      rows.replaceChildren(...drawn.map(shown));
      status.textContent = `${drawn.length} other image${drawn.length === 1 ? "" : "s"}`;
    };
    shuffle.addEventListener("click", () => draw().catch((error) => { status.textContent = error.message; }));
  }

  /* -- search -- */
  const results = document.getElementById("results");
  function words(text) {
    return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().match(/[\p{L}\p{N}]+/gu)?.map((word) => [...word].slice(0, 40).join("")) ?? [];
  }
  async function imagesOf(word, isInside) {
    /* The images with a word that begins with `word`, or has it inside. `more`: the list is incomplete, because the word is too common. */
    const matching = isInside ? prefixes : prefixes.filter((prefix) => prefix.startsWith(word) || word.startsWith(prefix));
    const read = isInside ? matching : matching.slice(0, MOST_SHARDS);
    const ordinals = new Set();
    let more = read.length < matching.length;
    for (const shard of await Promise.all(read.map((prefix) => load(`search/${hex(prefix)}`)))) {
      for (const [term, [images, ...gaps]] of Object.entries(shard)) {
        if (isInside ? !term.includes(word) : !term.startsWith(word)) continue;
        let ordinal = 0;
        for (const gap of gaps) ordinals.add(ordinal += gap);
        if (images > gaps.length) more = true;
      }
    }
    return { word, ordinals, more };
  }
  async function found(terms) {
    /* Parts inside of words are looked for only where nothing begins so, and the collection is small enough to read all its words. */
    const result = intersection(await Promise.all(terms.map((word) => imagesOf(word, false))));
    if (result.ordinals.length || !isSmall) return { ...result, isInside: false };
    const matches = await Promise.all(terms.map((word) => imagesOf(word, true)));
    return { ...intersection(matches), isInside: true, missing: matches.filter(({ ordinals }) => !ordinals.size).map(({ word }) => word) };
  }
  async function find(query, most) {
    /* For other scripts: the first `most` cards of images with all words of `query`, and how many there are. */
    const terms = words(query);
    if (!terms.length) return { images: 0, isPartial: false, cards: [] };
    const { ordinals, partial } = await found(terms);
    return { images: ordinals.length, isPartial: partial, cards: await Promise.all(ordinals.slice(0, most).map(cardAt)) };
  }
  function edits(one, other) {
    /* The number of letters to change, add, leave out or exchange with the next (optimal string alignment). */
    let before = [], last = Array.from({ length: other.length + 1 }, (_, place) => place);
    for (let i = 1; i <= one.length; i++) {
      const row = [i];
      for (let j = 1; j <= other.length; j++) {
        row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (one[i - 1] === other[j - 1] ? 0 : 1));
        if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) row[j] = Math.min(row[j], before[j - 2] + 1);
      }
      [before, last] = [last, row];
    }
    return last[other.length];
  }
  async function alike(word) {
    /* The known word, or beginning of one, that is most like `word`; undefined if none is near. Numbers are not corrected. All words are loaded. */
    const most = word.length < 4 || /^\p{N}+$/u.test(word) ? 0 : word.length < 7 ? 1 : 2;
    let best, least = most + 1;
    for (const prefix of prefixes) {
      for (const term of Object.keys(await load(`search/${hex(prefix)}`))) {
        for (const known of [term, term.slice(0, word.length)]) {
          const distance = Math.abs(known.length - word.length) < least ? edits(word, known) : least;
          if (distance < least) [best, least] = [known, distance];
        }
      }
    }
    return best;
  }
  async function suggestion(terms, missing) {
    /* A link to the search for known words in place of those that are `missing`; null if there are none. */
    const near = new Map(await Promise.all(missing.map(async (word) => [word, await alike(word)])));
    if (!missing.length || [...near.values()].includes(undefined)) return null;
    const query = terms.map((word) => near.get(word) ?? word).join(" ");
    return element("a", { href: `?${new URLSearchParams({ q: query })}`, textContent: query });
  }
  function intersection(matches) {
    /* The list of a word that is too common is incomplete and rules no image out. Such words are ignored, unless all are. */
    const complete = matches.filter(({ more }) => !more);
    const used = complete.length ? complete : matches.slice(0, 1);
    const [first, ...others] = used.sort((a, b) => a.ordinals.size - b.ordinals.size);
    return {
      ordinals: [...first.ordinals].filter((ordinal) => others.every((other) => other.ordinals.has(ordinal))).sort((a, b) => a - b),
      ignored: matches.filter((match) => !used.includes(match)).map(({ word }) => word),
      partial: used.some(({ more }) => more),
    };
  }
  async function explain(status, terms, isInside, missing = []) {
    /* Why nothing was found, and what could be tried. */
    const near = await suggestion(terms, missing);
    if (near) return status.append(". Did you mean ", near, "?");
    if (terms.length > 1) return status.append(missing.length ? `. No word has ${missing.join(", ")}.` : ". No image has all of these words.");
    return status.append(isInside ? ". No word has it, at its beginning or inside." : ". No word and no number begins with it. The collection is too large to look inside of words.");
  }
  async function search(query) {
    const status = document.getElementById("found"), more = document.getElementById("more");
    const terms = words(query);
    if (!terms.length) {
      if (query.trim()) status.textContent = `Nothing to look for in “${query}”: it has no letters and no digits`;
      return;
    }
    const { ordinals, ignored, partial, isInside, missing } = await found(terms);
    const number = ordinals.length.toLocaleString("en");
    status.textContent = ordinals.length ? `${partial ? "The first " : ""}${number} image${ordinals.length === 1 ? "" : "s"} for “${query}”` : `Nothing found for “${query}”`;
    if (ordinals.length && isInside) status.textContent += ", inside of words";
    if (ignored.length) status.textContent += `; too common to count: ${ignored.join(", ")}`;
    if (!ordinals.length) await explain(status, terms, isInside, missing);
    let next = 0;
    const show = async () => {
      const cards = await Promise.all(ordinals.slice(next, next += PAGE).map(cardAt));
      const first = results.children.length;
      results.append(...cards.map(shown));
      more.hidden = next >= ordinals.length;
      if (first) results.children[first].querySelector("a").focus();
    };
    more.addEventListener("click", show);
    await show();
    status.focus({ preventScroll: true }); // the keyboard goes on at the first result
  }
  if (results) {
    const query = new URLSearchParams(location.search).get("q") ?? "";
    const input = document.getElementById("query");
    input.value = query;
    if (!query) input.focus();
    window.addEventListener("DOMContentLoaded", () => search(query).catch((error) => {
      document.getElementById("found").textContent = `The search could not be done: ${error.message}`;
    }));
  }

  /* -- the list of tags, narrowed down to those with a text; Enter leads to the first -- */
  const narrow = document.getElementById("narrow");
  if (narrow) {
    const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
    const items = [...document.querySelectorAll("#tags > li")];
    const titles = items.map((item) => plain(item.querySelector(".title").textContent));
    const status = narrow.parentElement.querySelector("[role=status]");
    const update = () => {
      const text = plain(narrow.value.trim());
      items.forEach((item, place) => { item.hidden = !titles[place].includes(text); });
      const left = items.filter((item) => !item.hidden).length;
      status.textContent = text ? `${left.toLocaleString("en")} of ${items.length.toLocaleString("en")}` : "";
    };
    narrow.parentElement.hidden = false;
    narrow.addEventListener("input", update);
    narrow.addEventListener("keydown", (event) => {
      if (event.key === "Enter") items.find((item) => !item.hidden)?.querySelector("a").focus();
    });
    if (narrow.value) update(); // the browser has kept it
  }

  /* -- the switch between fingerprints keeps its position -- */
  const KEY = "image-similarity-slot";
  const switches = document.querySelectorAll(".switch input");
  try {
    const stored = sessionStorage.getItem(KEY);
    for (const input of switches) {
      if (input.value === stored) input.checked = true;
      input.addEventListener("change", () => sessionStorage.setItem(KEY, input.value));
    }
  } catch { /* the browser has no session storage */ }
  const usual = document.querySelector(".s0") && matchMedia("(max-width: 44rem)").matches ? "0" : "all"; // as the style sheet shows it
  if (![...switches].some((input) => input.checked)) for (const input of switches) input.checked = input.value === usual;

  /* -- where originals are can be copied -- */
  async function copied(place) {
    getSelection().selectAllChildren(place);
    try {
      await navigator.clipboard.writeText(place.textContent);
      return true;
    } catch {
      return document.execCommand("copy"); // a page of plain http has no clipboard, or it was refused
    }
  }
  for (const place of document.querySelectorAll(".location")) {
    const button = element("button", { type: "button", className: "copy", textContent: "Copy", ariaLive: "polite" });
    button.addEventListener("click", async () => { button.textContent = await copied(place) ? "Copied" : "Selected"; });
    (place.closest("a") ?? place).after(button);
  }

  /* -- the picture, enlarged -- */
  const ENLARGED = "#enlarged";
  const enlarge = document.querySelector(".enlarge");
  let dialog;
  const pageLink = (relation) => document.querySelector(`a[rel=${relation}]`);
  function turn(relation) {
    const link = pageLink(relation);
    if (!link) return;
    // On the next enlarged picture the same button has the focus, so that pressing it again goes on.
    const pressed = document.activeElement.name === relation ? `-${relation}` : "";
    location.href = link.href + (dialog?.open ? ENLARGED + pressed : "");
  }
  function button(textContent, action, disabled = false) {
    const node = element("button", { type: "button", textContent, disabled });
    node.addEventListener("click", action);
    return node;
  }
  function makeDialog() {
    const picture = enlarge.querySelector("img").cloneNode();
    picture.src = enlarge.href;
    const toggle = () => { if (!size.disabled) size.ariaPressed = String(made.classList.toggle("whole")); };
    const fit = () => {
      const isWhole = made.classList.contains("whole");
      size.disabled = !isWhole && picture.complete && picture.naturalWidth <= Math.ceil(picture.clientWidth);
      made.classList.toggle("fits", size.disabled);
    };
    picture.addEventListener("load", fit);
    window.addEventListener("resize", fit);
    picture.addEventListener("click", toggle);
    const size = button("Full size", toggle), close = button("Close", () => made.close());
    size.ariaPressed = "false";
    close.autofocus = true;
    const [previous, next] = [["Previous", "prev"], ["Next", "next"]].map(([text, name]) =>
      Object.assign(button(text, () => turn(name), !pageLink(name)), { name }));
    const title = document.querySelector("h1").textContent, place = document.querySelector(".turning .number").textContent;
    const name = element("span", { className: "title", dir: "auto" }, title, " ", element("span", { className: "note", textContent: place }));
    const bar = element("p", {}, name, previous, size, close, next);
    const made = element("dialog", { className: "enlarged", ariaLabel: `${title}, enlarged` }, bar, picture);
    made.fit = fit;
    made.addEventListener("close", () => {
      if (location.hash.startsWith(ENLARGED)) history.replaceState(null, "", location.pathname + location.search);
      enlarge.focus();
    });
    let begun = null; // where one finger was put down
    made.addEventListener("touchstart", ({ touches }) => { begun = touches.length === 1 ? touches[0].clientX : null; }, { passive: true });
    made.addEventListener("touchend", ({ changedTouches }) => {
      const moved = begun === null ? 0 : changedTouches[0].clientX - begun;
      const isZoomed = made.classList.contains("whole") || (window.visualViewport?.scale ?? 1) > 1.01;
      if (Math.abs(moved) > 60 && !isZoomed) turn(moved < 0 ? "next" : "prev");
    });
    document.body.append(made);
    return made;
  }
  function openDialog() {
    dialog ??= makeDialog();
    dialog.showModal();
    dialog.fit();
    dialog.querySelector(`[name="${location.hash.slice(ENLARGED.length + 1)}"]:enabled`)?.focus();
  }
  enlarge?.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openDialog();
  });
  if (enlarge && location.hash.startsWith(ENLARGED)) openDialog();

  /* -- the map: a link in the navigation and on the page of each image that has neighbours, and the wall on the front page -- */
  function showMap({ page, picture, width, height, images }) {
    const href = new URL(page, root).href;
    const lists = document.querySelector("header nav ul"), front = document.querySelector(".mapped");
    if (lists && !lists.querySelector(`[href$="${page}"]`)) {
      lists.firstElementChild.after(element("li", {}, element("a", { href, textContent: "Map" })));
    }
    const name = location.pathname.match(/\/images\/..\/(\w{32})\.html$/)?.[1];
    if (name && enlarge && document.getElementById("similar")) {
      const number = document.querySelector(".turning .number"), place = element("span", { className: "place" });
      number.replaceWith(place);
      place.append(number, " ", element("a", { href: `${href}#${name}`, textContent: "On the map" }));
    }
    if (front && front.querySelector("a")?.dataset.picture !== picture) {
      const alt = `The map of ${images.toLocaleString("en")} image${images === 1 ? "" : "s"}`;
      const wall = element("img", { src: new URL(picture, root).href, width, height, alt });
      front.querySelector("a")?.remove();
      front.append(element("a", { href }, wall));
      front.hidden = false;
    }
  }

  /* -- arrow keys left and right turn pages, also on the switch, where up and down choose -- */
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const relation = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    if (!relation || event.target.closest("input:not([type=radio]), textarea, select, pre, .whole")) return;
    event.preventDefault();
    turn(relation);
  });
})();
