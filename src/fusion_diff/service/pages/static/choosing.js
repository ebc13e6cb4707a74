// Selects references by tick boxes, one by one or a whole class, and shows the actions for them.

function show() {
  const form = document.getElementById("chosen");
  const boxes = [...form.elements].filter((each) => each.name === "image");
  const count = boxes.filter((box) => box.checked).length;
  const told = count === 1 ? "1 reference" : `${count} references`;
  form.hidden = !count;
  form.querySelector("[data-count]").textContent = `${told} selected`;
  form.querySelector("[data-remove]").setAttribute("hx-confirm", `Remove ${told} from the set?`);
  for (const all of document.querySelectorAll("[data-all]")) {
    const own = inSection(all);
    all.checked = own.every((box) => box.checked);
    all.indeterminate = !all.checked && own.some((box) => box.checked);
  }
}

const inSection = (all) => [...all.closest("section").querySelectorAll("input[name=image]")];

document.addEventListener("change", ({ target }) => {
  if (!target.matches("#images input[type=checkbox]")) return;
  if (target.matches("[data-all]")) for (const box of inSection(target)) box.checked = target.checked;
  show();
});
