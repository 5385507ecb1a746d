"use strict";
/* Dropping and pasting; answers without a new page; and whether a newer state was published. Without it the form does the same. */
(() => {
  const form = document.getElementById("ask"), file = document.getElementById("picture"), address = document.getElementById("address");
  const status = document.getElementById("status"), answer = document.getElementById("answer");
  const most = Number(document.body.dataset.most), OURS = "application/x-image-similarity";
  document.body.classList.add("script");

  /* -- asking -- */
  let asking = null; // an AbortController: a new question ends the one before
  async function ask(request, options) {
    asking?.abort();
    const mine = asking = new AbortController();
    document.body.classList.add("busy");
    status.textContent = "Looking…";
    try {
      const response = await fetch(request, { ...options, headers: { Accept: "text/html" }, signal: mine.signal });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const found = page.getElementById("answer");
      if (!found) throw new Error(page.querySelector(".lead")?.textContent || `the server says ${response.status}`);
      answer.replaceChildren(...found.childNodes);
      for (const hidden of [form, page].map((where) => where.querySelector("input[name=again]"))) hidden?.remove();
      const shown = new URL(response.url);
      if (shown.search !== location.search) history.pushState(null, "", shown);
      document.title = page.title;
      status.textContent = "";
      document.getElementById("said")?.focus();
    } catch (error) {
      if (error.name !== "AbortError") status.textContent = `No answer: ${error.message}`;
    } finally {
      if (asking === mine) document.body.classList.remove("busy");
    }
  }
  const submit = () => ask(form.action, { method: "POST", body: new FormData(form) });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  function look(given) {
    /* A File or an address takes the place of what was asked before. */
    form.querySelector("input[name=again]")?.remove();
    if (given instanceof File) {
      if (given.size > most) {
        status.textContent = `This file is too large: ${given.size.toLocaleString("en")} bytes, ${most.toLocaleString("en")} are allowed`;
        return;
      }
      const files = new DataTransfer();
      files.items.add(given);
      file.files = files.files;
      address.value = "";
    } else {
      file.value = "";
      address.value = given;
    }
    submit();
  }
  file.addEventListener("change", () => { if (file.files.length) look(file.files[0]); });
  address.addEventListener("input", () => { if (address.value) file.value = ""; });

  /* -- more like an image of the answer, by what the form wants now -- */
  answer.addEventListener("click", (event) => {
    const more = event.target.closest(".more");
    if (!more || !form.checkValidity()) return;
    const target = new URL(more.href);
    for (const name of ["k", "dissimilar", "fingerprint"]) if (form.elements[name]) target.searchParams.set(name, form.elements[name].value);
    more.href = target.href;
  });

  /* -- dropping and pasting: a picture, its address, or an image of an answer -- */
  const isAddress = (text) => /^https?:\/\/\S+$/i.test(text);
  function take(data) {
    /* Whether there is something to look for in what was dropped or pasted. */
    const question = data.getData(OURS);
    if (question) {
      location.search = question; // whoever set it: it leads nowhere else
      return true;
    }
    const given = [...data.files][0] ?? [data.getData("text/uri-list").split("\n")[0], data.getData("text/plain")].map((text) => text.trim()).find(isAddress);
    if (given) look(given);
    return Boolean(given);
  }
  let depth = 0; // dragenter and dragleave come for every element that is passed
  const over = (change) => { depth = Math.max(0, depth + change); document.body.classList.toggle("over", depth > 0); };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    if (!take(event.dataTransfer)) status.textContent = "That is no picture, and no address of one";
  });
  document.addEventListener("dragstart", (event) => {
    const more = event.target.closest?.(".card")?.querySelector(".more");
    if (more) event.dataTransfer.setData(OURS, new URL(more.href).search);
  });
  document.addEventListener("paste", (event) => {
    const isTyping = event.target.closest?.("input:not([type=file]), select") && !event.clipboardData.files.length;
    if (!isTyping && take(event.clipboardData)) event.preventDefault();
  });

  /* -- an original of which there is no picture: why -- */
  async function explain(image) {
    if (!image.getAttribute("src")?.startsWith("picture?")) return;
    const reply = await fetch(image.src).catch(() => null);
    if (!reply || reply.ok) return;
    const absent = document.createElement("span");
    absent.className = "absent";
    absent.textContent = (await reply.json()).error;
    image.parentElement?.querySelector(".title")?.removeAttribute("aria-hidden"); // the picture's text has said it
    image.replaceWith(absent);
  }
  document.addEventListener("error", (event) => { if (event.target instanceof HTMLImageElement) explain(event.target); }, true);
  for (const image of document.images) if (image.complete && image.currentSrc && !image.naturalWidth) explain(image);

  /* -- a newer state -- */
  async function compareStates() {
    const notice = document.getElementById("newer");
    if (!notice || document.hidden) return;
    try {
      const state = await (await fetch("state")).json();
      notice.hidden = state.state === notice.dataset.state;
    } catch { /* the server has ended: the next question says so */ }
  }
  document.addEventListener("visibilitychange", compareStates);
  window.addEventListener("focus", compareStates);
  answer.addEventListener("click", (event) => {
    if (!event.target.closest("#newer button")) return;
    if (location.search) location.reload();
    else submit();
  });
  window.addEventListener("popstate", () => location.reload());
})();
