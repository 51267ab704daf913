// The picture with its outlines: zoom by wheel, pinch, buttons or + and -; pan by dragging or arrow
// keys; a click marks or deletes a nucleus, or draws one. Called anew whenever the data change, so
// what the user is about (zoom, mode, a half-drawn outline) is kept beside the element.
const SVG = "http://www.w3.org/2000/svg";
const GREATEST_ZOOM = 32;
const CLICK_PX = 4; // a hand trembles so far on a click
const HINTS = {
  look: "Wheel, pinch or + and − zoom; drag or arrow keys pan.",
  mark: "Wheel, pinch or + and − zoom; drag or arrow keys pan; a click marks a nucleus.",
  delete: "Click a nucleus to delete it, again to take it back. In any mode the key Delete does so to"
    + " the marked one.",
  draw: "Drag around a nucleus, or click its corners and press “Finish outline”. By keys: arrows move"
    + " the cross, Enter sets a corner, F finishes, Escape starts anew.",
};
const views = new WeakMap();

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function outlineOf(id, points, name) {
  return element("polygon", {
    points, "data-id": id, class: name, "vector-effect": "non-scaling-stroke",
  });
}

function draw(svg, data) {
  svg.replaceChildren();
  svg.setAttribute("aria-label", data.description);
  const size = { x: 0, y: 0, width: data.width, height: data.height, preserveAspectRatio: "none" };
  svg.append(element("rect", { ...size, fill: "#d1d5db" }));
  if (data.picture) svg.append(element("image", { ...size, href: data.picture, class: "picture" }));
  const { colour, thickness_px, opacity, fill, map_opacity } = data.style;
  if (data.map) {
    svg.append(element("image", { ...size, href: data.map, class: "map", opacity: map_opacity }));
  }
  const outlines = element("g", {
    class: "outlines", stroke: colour, "stroke-width": thickness_px, "stroke-opacity": opacity,
    fill: colour, "fill-opacity": fill, "stroke-linejoin": "round",
  });
  const deleted = new Set(data.deleted);
  let marked = null;
  for (const [id, points] of data.nuclei) {
    const outline = outlineOf(id, points, deleted.has(id) ? "nucleus deleted" : "nucleus");
    if (id === data.selected) marked = outline;
    else outlines.append(outline);
  }
  data.drawn.forEach((points, place) => outlines.append(outlineOf(-1 - place, points, "drawn")));
  if (marked) {
    marked.classList.add("marked");
    outlines.append(marked);
  }
  const pending = { class: "pending", "stroke-width": 2, "vector-effect": "non-scaling-stroke" };
  const cross = { class: "cross", "vector-effect": "non-scaling-stroke" };
  svg.append(outlines, element("polyline", pending), element("path", cross));
}

function clamp(view, data) {
  view.width = Math.min(Math.max(view.width, data.width / GREATEST_ZOOM), data.width);
  view.height = view.width * (data.height / data.width);
  view.x = Math.min(Math.max(view.x, 0), data.width - view.width);
  view.y = Math.min(Math.max(view.y, 0), data.height - view.height);
}

export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  const find = (selector) => parentElement.querySelector(selector);
  const frame = find(".frame");
  const svg = find("svg");
  let view = views.get(frame);
  if (!view || view.name !== data.name) {
    const whole = { x: 0, y: 0, width: data.width, height: data.height };
    view = {
      ...whole, name: data.name, mode: "mark", corners: [], cross: null, pointers: new Map(),
      token: Math.random().toString(36).slice(2), edits: 0, untaken: [],
    };
    views.set(frame, view);
  }
  view.untaken = view.untaken.filter((edit) => !(data.taken ?? []).includes(edit.id));
  // A reload, the button "back" or a closed tab ends the session, and with it what is not on file.
  if (data.editable) {
    window.onbeforeunload = (event) => {
      if (data.unfiled || view.untaken.length > 0) event.preventDefault();
    };
  }
  frame.style.aspectRatio = `${data.width} / ${data.height}`;
  frame.style.maxWidth = `calc(${data.width / data.height} * 32rem)`;

  const show = () => {
    clamp(view, data);
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    find("output").textContent = `${Math.round((data.width / view.width) * 100)} %`;
    showPending();
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

  const showPending = () => {
    find(".pending").setAttribute("points", view.corners.map((corner) => corner.join(",")).join(" "));
    find(".finish").hidden = view.mode !== "draw" || view.corners.length < 3;
    const { cross } = view;
    const arm = view.width * 0.02;
    find(".cross").setAttribute("d", cross === null ? "" : `M${cross.x - arm},${cross.y}h${2 * arm}`
      + `M${cross.x},${cross.y - arm}v${2 * arm}`);
  };
  const setMode = (mode) => {
    Object.assign(view, { mode, corners: [], cross: null });
    frame.className = `frame ${mode}`;
    for (const button of parentElement.querySelectorAll(".modes button")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    }
    find(".hint").textContent = HINTS[data.markable ? mode : "look"];
    showPending();
  };
  // Of two reports that come while the app is at work it gets the later alone, so each says all
  // that the app has not said to have.
  const report = () => {
    if (view.untaken.length > 0) setTriggerValue("edit", { edits: view.untaken });
  };
  const edit = (change) => {
    view.edits += 1;
    view.untaken.push({ id: `${view.token}-${view.edits}`, result: data.result, ...change });
    report();
  };
  const finish = () => {
    if (view.corners.length < 3) return;
    const outline = view.corners;
    view.corners = [];
    // Shown at once; what the app makes of it comes with the next data.
    find(".outlines").append(outlineOf(0, outline.map((corner) => corner.join(",")).join(" "), "drawn"));
    showPending();
    edit({ outline });
  };
  const addCorner = (x, y) => {
    view.corners.push([Math.round(x * 100) / 100, Math.round(y * 100) / 100]);
    showPending();
  };
  const toggle = (outline) => {
    outline.classList.toggle("deleted");
    const id = Number(outline.dataset.id);
    edit(id < 0 ? { erase: outline.getAttribute("points") } : { toggle: id });
  };
  const click = (outline) => {
    const id = Number(outline?.dataset?.id ?? 0);
    if (id && view.mode === "delete" && data.editable) toggle(outline);
    else if (id > 0 && view.mode === "mark" && data.markable) {
      svg.querySelector(".marked")?.classList.remove("marked");
      outline.classList.add("marked");
      setTriggerValue("nucleus", id);
      report();
    }
  };

  draw(svg, data);
  find(".modes").hidden = !data.editable;
  const { corners, cross } = view;
  setMode(data.editable ? view.mode : "mark");
  Object.assign(view, { corners, cross });
  const marked = svg.querySelector(".marked");
  if (marked && view.marked !== data.selected && view.width < data.width) {
    const box = marked.getBBox();
    view.x = box.x + box.width / 2 - view.width / 2;
    view.y = box.y + box.height / 2 - view.height / 2;
  }
  view.marked = data.selected;
  show();

  find(".closer").onclick = () => zoomAt(1.5, 0.5, 0.5);
  find(".farther").onclick = () => zoomAt(1 / 1.5, 0.5, 0.5);
  find(".fit").onclick = fit;
  find(".finish").onclick = finish;
  for (const button of parentElement.querySelectorAll(".modes button")) {
    button.onclick = () => setMode(button.dataset.mode);
  }

  const arrow = (across, down) => {
    if (view.mode !== "draw") return pan(across * 0.1, down * 0.1);
    const from = view.cross ?? { x: view.x + view.width / 2, y: view.y + view.height / 2 };
    const x = Math.min(Math.max(from.x + across * view.width * 0.01, 0), data.width);
    const y = Math.min(Math.max(from.y + down * view.height * 0.01, 0), data.height);
    view.cross = { x, y };
    if (x < view.x || x > view.x + view.width) view.x = x - view.width / 2;
    if (y < view.y || y > view.y + view.height) view.y = y - view.height / 2;
    return show();
  };
  const keys = {
    "+": () => zoomAt(1.5, 0.5, 0.5), "=": () => zoomAt(1.5, 0.5, 0.5),
    "-": () => zoomAt(1 / 1.5, 0.5, 0.5), "0": fit,
    ArrowLeft: () => arrow(-1, 0), ArrowRight: () => arrow(1, 0),
    ArrowUp: () => arrow(0, -1), ArrowDown: () => arrow(0, 1),
  };
  if (data.editable) {
    keys.Delete = () => { if (marked) toggle(marked); };
    keys.Backspace = keys.Delete; // what a Mac calls delete
  }
  const drawingKeys = {
    Enter: () => { if (view.cross) addCorner(view.cross.x, view.cross.y); },
    f: finish, F: finish,
    Escape: () => { view.corners = []; showPending(); },
  };
  frame.onkeydown = (event) => {
    const act = keys[event.key] ?? (view.mode === "draw" ? drawingKeys[event.key] : undefined);
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  frame.onwheel = (event) => {
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    zoomAt(event.deltaY < 0 ? 1.25 : 1 / 1.25, across, (event.clientY - box.top) / box.height);
  };

  const { pointers } = view;
  const addCornerAt = (box, at) => addCorner(
    view.x + ((at.x - box.left) / box.width) * view.width,
    view.y + ((at.y - box.top) / box.height) * view.height,
  );
  const pinch = (box, before, now, other) => {
    const factor = Math.hypot(now.x - other.x, now.y - other.y)
      / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
    const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
    zoomAt(factor, (middle.x - box.left) / box.width, (middle.y - box.top) / box.height);
    pan((before.x - now.x) / 2 / box.width, (before.y - now.y) / 2 / box.height);
  };
  frame.onpointerdown = (event) => {
    if (event.button > 0) return;
    const at = { x: event.clientX, y: event.clientY };
    pointers.set(event.pointerId, at);
    frame.setPointerCapture(event.pointerId);
    view.cross = null;
    if (pointers.size > 1) {
      // A second finger: this is a pinch, and what the first one drew was none.
      view.corners = view.corners.slice(0, view.stroke?.corners ?? 0);
      view.stroke = null;
      showPending();
    } else {
      view.stroke = { ...at, last: at, moved: false, outline: event.target, corners: view.corners.length };
    }
  };
  frame.onpointermove = (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    pointers.set(event.pointerId, now);
    const box = svg.getBoundingClientRect();
    if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      pinch(box, before, now, other);
      return;
    }
    const { stroke } = view;
    if (!stroke) return;
    if (!stroke.moved && Math.hypot(now.x - stroke.x, now.y - stroke.y) < CLICK_PX) return;
    if (view.mode !== "draw") {
      stroke.moved = true;
      pan((before.x - now.x) / box.width, (before.y - now.y) / box.height);
    } else if (!stroke.moved || Math.hypot(now.x - stroke.last.x, now.y - stroke.last.y) > 2) {
      if (!stroke.moved) addCornerAt(box, stroke);
      Object.assign(stroke, { moved: true, last: now });
      addCornerAt(box, now);
    }
  };
  frame.onpointerup = (event) => {
    const { stroke } = view;
    pointers.delete(event.pointerId);
    view.stroke = null;
    if (!stroke) return;
    if (view.mode !== "draw") {
      if (!stroke.moved) click(stroke.outline);
    } else if (stroke.moved) finish();
    else addCornerAt(svg.getBoundingClientRect(), stroke);
  };
  frame.onpointercancel = (event) => {
    pointers.delete(event.pointerId);
    view.stroke = null;
  };
}
