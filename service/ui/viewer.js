// The picture with its outlines: zoom by wheel, buttons or + and -; pan by dragging or arrow keys;
// a click on a nucleus reports its number. Called anew whenever the data change, so what the user
// has zoomed to is kept beside the element.
const SVG = "http://www.w3.org/2000/svg";
const GREATEST_ZOOM = 32;
const views = new WeakMap();

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function draw(svg, data) {
  svg.replaceChildren();
  svg.setAttribute("aria-label", data.description);
  const size = { x: 0, y: 0, width: data.width, height: data.height, preserveAspectRatio: "none" };
  svg.append(element("rect", { ...size, fill: "#d1d5db" }));
  if (data.picture) svg.append(element("image", { ...size, href: data.picture, class: "picture" }));
  if (data.probability) {
    svg.append(element("image", { ...size, href: data.probability, class: "probability" }));
  }
  const { colour, thickness_px, opacity, fill } = data.style;
  const outlines = element("g", {
    class: "outlines", stroke: colour, "stroke-width": thickness_px, "stroke-opacity": opacity,
    fill: colour, "fill-opacity": fill, "stroke-linejoin": "round",
  });
  let marked = null;
  for (const [id, points] of data.nuclei) {
    const outline = element("polygon", { points, "data-id": id, "vector-effect": "non-scaling-stroke" });
    if (id === data.selected) marked = outline;
    else outlines.append(outline);
  }
  if (marked) {
    marked.setAttribute("class", "marked");
    outlines.append(marked);
  }
  svg.append(outlines);
}

function clamp(view, data) {
  view.width = Math.min(Math.max(view.width, data.width / GREATEST_ZOOM), data.width);
  view.height = view.width * (data.height / data.width);
  view.x = Math.min(Math.max(view.x, 0), data.width - view.width);
  view.y = Math.min(Math.max(view.y, 0), data.height - view.height);
}

export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  const frame = parentElement.querySelector(".frame");
  const svg = parentElement.querySelector("svg");
  const size = `${data.width}x${data.height}`;
  let view = views.get(frame);
  if (!view || view.size !== size) {
    view = { size, x: 0, y: 0, width: data.width, height: data.height };
    views.set(frame, view);
  }
  frame.style.aspectRatio = `${data.width} / ${data.height}`;
  frame.style.maxWidth = `calc(${data.width / data.height} * 32rem)`;

  const show = () => {
    clamp(view, data);
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    const zoom = `${Math.round((data.width / view.width) * 100)} %`;
    parentElement.querySelector("output").textContent = zoom;
  };
  const zoomAt = (factor, acrossShare, downShare) => {
    const before = { ...view };
    view.width /= factor;
    clamp(view, data);
    view.x = before.x + (before.width - view.width) * acrossShare;
    view.y = before.y + (before.height - view.height) * downShare;
    show();
  };
  const pan = (across, down) => {
    view.x += across * view.width;
    view.y += down * view.height;
    show();
  };
  const fit = () => {
    Object.assign(view, { x: 0, y: 0, width: data.width, height: data.height });
    show();
  };

  draw(svg, data);
  parentElement.querySelector(".marks").hidden = !data.markable;
  const marked = svg.querySelector(".marked");
  if (marked && view.marked !== data.selected && view.width < data.width) {
    const box = marked.getBBox();
    view.x = box.x + box.width / 2 - view.width / 2;
    view.y = box.y + box.height / 2 - view.height / 2;
  }
  view.marked = data.selected;
  show();

  parentElement.querySelector(".closer").onclick = () => zoomAt(1.5, 0.5, 0.5);
  parentElement.querySelector(".farther").onclick = () => zoomAt(1 / 1.5, 0.5, 0.5);
  parentElement.querySelector(".fit").onclick = fit;
  const keys = {
    "+": () => zoomAt(1.5, 0.5, 0.5), "=": () => zoomAt(1.5, 0.5, 0.5),
    "-": () => zoomAt(1 / 1.5, 0.5, 0.5), "0": fit,
    ArrowLeft: () => pan(-0.1, 0), ArrowRight: () => pan(0.1, 0),
    ArrowUp: () => pan(0, -0.1), ArrowDown: () => pan(0, 0.1),
  };
  frame.onkeydown = (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  frame.onwheel = (event) => {
    event.preventDefault();
    const box = frame.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    zoomAt(event.deltaY < 0 ? 1.25 : 1 / 1.25, across, (event.clientY - box.top) / box.height);
  };

  let drag = null;
  frame.onpointerdown = (event) => {
    drag = { x: event.clientX, y: event.clientY, moved: false, id: event.target.dataset?.id };
    frame.setPointerCapture(event.pointerId);
  };
  frame.onpointermove = (event) => {
    if (!drag) return;
    const box = frame.getBoundingClientRect();
    const across = (drag.x - event.clientX) / box.width;
    const down = (drag.y - event.clientY) / box.height;
    if (!drag.moved && Math.hypot(across * box.width, down * box.height) < 4) return;
    Object.assign(drag, { x: event.clientX, y: event.clientY, moved: true });
    pan(across, down);
  };
  frame.onpointerup = () => {
    if (drag && !drag.moved && drag.id) setTriggerValue("nucleus", Number(drag.id));
    drag = null;
  };
  frame.onpointercancel = () => { drag = null; };
}
