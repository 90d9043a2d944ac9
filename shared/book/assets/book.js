// The map: show the arrows of the box that is pointed at or focused.
for (const map of document.querySelectorAll(".map svg")) {
  const light = (name) => {
    map.classList.toggle("lit", Boolean(name));
    const near = new Set([name]);
    for (const edge of map.querySelectorAll(".edge")) {
      const mine = edge.dataset.from === name || edge.dataset.to === name;
      edge.classList.toggle("on", mine);
      if (mine) near.add(edge.dataset.from).add(edge.dataset.to);
    }
    for (const note of map.querySelectorAll(".note")) {
      note.classList.toggle("on", near.has(note.dataset.name));
    }
  };
  for (const note of map.querySelectorAll("a.note")) {
    for (const event of ["mouseenter", "focus"]) {
      note.addEventListener(event, () => light(note.dataset.name));
    }
    for (const event of ["mouseleave", "blur"]) note.addEventListener(event, () => light(null));
  }
}
