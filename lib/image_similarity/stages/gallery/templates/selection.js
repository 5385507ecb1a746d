"use strict";
/* What is marked for removal: kept in the browser, an entry of its own for each image, and saved as remove.csv. */
(() => {
  const COLUMNS = {{ selection_columns|compact }};
  const root = new URL("..", document.currentScript.src);
  const PREFIX = `image-similarity-remove ${root.href} `, HERE = `image-similarity-pages ${root.href}`;
  const bar = document.querySelector(".selection");
  if (!bar) return;
  const boxes = [...document.querySelectorAll("input[name=remove]")];

  /* -- where it is kept: in the browser or, if that refuses, on this page only -- */
  const onThisPage = new Map();
  let kept = true, isFull = false;
  try {
    localStorage.setItem(`${PREFIX}?`, "");
    localStorage.removeItem(`${PREFIX}?`);
  } catch {
    kept = false;
  }
  /* Some browsers keep a storage of its own for each file on a disk. It is known to be shared once another page has written there. */
  let isShared = kept && location.protocol !== "file:";
  if (kept && !isShared) {
    try {
      const pages = new Set(JSON.parse(localStorage.getItem(HERE) ?? "[]"));
      pages.add(location.pathname);
      isShared = pages.size > 1;
      localStorage.setItem(HERE, JSON.stringify([...pages].slice(-2)));
    } catch { /* it stays unknown */ }
  }
  const keys = () => kept ? Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)) : [...onThisPage.keys()];
  const read = (key) => kept ? localStorage.getItem(key) : onThisPage.get(key) ?? null;
  const drop = (key) => kept ? localStorage.removeItem(key) : onThisPage.delete(key);
  function put(key, value) {
    if (!kept) { onThisPage.set(key, value); return true; }
    try {
      localStorage.setItem(key, value);
      return true;
    } catch {
      isFull = true;
      return false;
    }
  }
  function rows() {
    const all = [];
    for (const key of keys()) {
      try {
        all.push(JSON.parse(read(key)));
      } catch { /* not an entry of ours */ }
    }
    const inOrder = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
    return all.sort((one, other) => inOrder(one.group_id, other.group_id) || inOrder(one.image_id, other.image_id));
  }

  /* -- the file: RFC 4180, as group_images writes it: texts in quotes, empty cells for what is not known -- */
  const cell = (value) => value === null || value === undefined ? "" : typeof value === "string" ? `"${value.replaceAll('"', '""')}"` : String(value);
  const line = (cells) => `${cells.map(cell).join(",")}\n`;
  function save() {
    const text = line(COLUMNS) + rows().map((row) => line(COLUMNS.map((name) => row[name]))).join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    link.download = "remove.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    isSaved = true;
  }

  /* -- boxes and bar -- */
  const rowOf = (box) => JSON.parse(box.dataset.row);
  const keyOf = (box) => PREFIX + rowOf(box).image_id;
  let isSaved = false;
  function note(all) {
    const removed = new Set(all.map(({ image_id }) => image_id));
    const lost = new Set(all.filter(({ kept_id }) => kept_id !== null && removed.has(kept_id)).map(({ group_id }) => group_id)).size;
    const said = [];
    if (lost) said.push(`The kept one is marked, too, in ${lost} group${lost === 1 ? "" : "s"}.`);
    if (isFull) said.push("The browser has no room for more: save these, and clear them.");
    if (!kept) said.push("This browser keeps nothing: save the file before you leave this page.");
    else if (!isShared) said.push("Opened from disk, some browsers keep this for each page by itself: look whether the number stays on other pages.");
    return said.join(" ");
  }
  function show() {
    const all = rows();
    bar.hidden = !all.length && !isFull;
    bar.querySelector(".marked").textContent = `${all.length.toLocaleString("en")} image${all.length === 1 ? "" : "s"} marked for removal`;
    bar.querySelector(".note").textContent = note(all);
    for (const button of bar.querySelectorAll("button")) button.disabled = !all.length;
    for (const box of boxes) box.checked = read(keyOf(box)) !== null;
  }
  function mark(box, isMarked) {
    if (isMarked) put(keyOf(box), box.dataset.row);
    else { drop(keyOf(box)); isFull = false; }
    isSaved = false;
  }
  for (const box of boxes) {
    // What is known of an image may have changed since it was marked.
    if (read(keyOf(box)) !== null) put(keyOf(box), box.dataset.row);
    box.closest(".mark").hidden = false;
    box.addEventListener("change", () => { mark(box, box.checked); show(); });
  }
  for (const button of document.querySelectorAll("button[name=others]")) {
    const all = () => boxes.filter((box) => document.getElementById(button.dataset.within)?.contains(box));
    button.hidden = !all().length;
    button.addEventListener("click", () => {
      for (const box of all()) mark(box, rowOf(box).kept_id !== null);
      show();
    });
  }
  bar.querySelector("[name=save]").addEventListener("click", save);
  bar.querySelector("[name=clear]").addEventListener("click", () => {
    for (const key of keys()) drop(key);
    isFull = false;
    show();
  });
  window.addEventListener("storage", show);
  window.addEventListener("pageshow", show);
  window.addEventListener("beforeunload", (event) => { if (!kept && onThisPage.size && !isSaved) event.preventDefault(); });
  show();
})();
