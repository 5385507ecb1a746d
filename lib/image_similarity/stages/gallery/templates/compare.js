"use strict";
/* The slider: how much of the picture that lies over the other is shown. Without a script its edge can be dragged. */
(() => {
  const views = document.querySelector(".views"), slider = views.querySelector(".slider");
  const input = slider.querySelector("input"), over = views.querySelector(".slide .over");
  const show = () => { over.style.width = `${input.value}%`; };
  views.classList.add("scripted");
  slider.hidden = false;
  input.addEventListener("input", show);
  show();
  const stage = views.querySelector(".slide .stage");
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const { left, width } = stage.getBoundingClientRect();
    input.value = Math.round((event.clientX - left) / width * 100);
    show();
  };
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  stage.addEventListener("dragstart", (event) => event.preventDefault());
})();
