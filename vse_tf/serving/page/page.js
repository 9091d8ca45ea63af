// The search page. TensorFlow Serving's REST calls embed texts and images; the gallery's own routes find the nearest
// items. Text from the index is only ever set as textContent.

const COUNT = 48;
const get = (id) => document.getElementById(id);
const [form, textInput, imageInput, status, results, hint, drop] =
  ["search", "text", "image", "status", "results", "hint", "drop"].map(get);
const [query, queryPicture, queryName] = ["query", "query-picture", "query-name"].map(get);

let gallery = null;
let newest = 0; // number of the newest search: results of older ones are ignored

function say(text, error = false) {
  status.textContent = text;
  status.classList.toggle("error", error);
}

async function call(address, body) {
  const options = body === undefined ? {} :
    { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("the server does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
  return answer;
}

// One row of TensorFlow Serving's predict call.
async function embed(model, instance) {
  const answer = await call(`v1/models/${encodeURIComponent(model)}:predict`, { instances: [instance] });
  const row = answer.predictions[0];
  return Array.isArray(row) ? row : row.embedding;
}

const nearest = (body) => call("gallery/nearest", { ...body, k: COUNT });

async function search(title, find) {
  const number = ++newest;
  results.setAttribute("aria-busy", "true");
  say("searching…");
  try {
    const started = performance.now();
    const answer = await find();
    if (number !== newest) return;
    show(answer.items);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    say(`${answer.items.length} of ${gallery.count.toLocaleString("en")} for ${title} (${seconds} s)`);
    document.title = `${title} – vse_tf search`;
  } catch (error) {
    if (number === newest) say(error.message, true);
  } finally {
    if (number === newest) results.setAttribute("aria-busy", "false");
  }
}

function element(name, className, text) {
  const created = document.createElement(name);
  if (className) created.className = className;
  if (text !== undefined) created.textContent = text;
  return created;
}

function picture(item) {
  const image = element("img");
  image.alt = item.id;
  image.loading = "lazy";
  image.src = `gallery/thumbnails/${item.row}`;
  image.addEventListener("error", () => image.replaceWith(element("span", "no-picture", "no picture")));
  return image;
}

function show(items) {
  hint.hidden = true;
  results.replaceChildren(...items.map((item, index) => {
    const button = element("button");
    button.type = "button";
    button.title = "Search for similar items";
    if (gallery.kind === "images") button.append(picture(item));
    button.append(element("span", "name", item.caption ?? item.id));
    button.append(element("span", "score", `${index + 1} · ${item.score.toFixed(3)}`));
    button.addEventListener("click", () => { location.hash = new URLSearchParams({ row: item.row }); });
    const entry = element("li");
    entry.append(button);
    return entry;
  }));
  window.scrollTo({ top: 0 });
}

function showQuery(source, name) {
  if (queryPicture.src.startsWith("blob:")) URL.revokeObjectURL(queryPicture.src);
  query.hidden = !name;
  queryPicture.hidden = !source;
  if (source) queryPicture.src = source; else queryPicture.removeAttribute("src");
  queryName.textContent = name || "";
}

function searchText(text) {
  textInput.value = text;
  showQuery();
  search(`“${text}”`, async () => nearest({ vector: await embed(gallery.models.text, text) }));
}

function searchRow(row) {
  textInput.value = "";
  search(`item ${row}`, async () => {
    const answer = await nearest({ row });
    showQuery(gallery.kind === "images" ? `gallery/thumbnails/${row}` : "", answer.query.caption ?? answer.query.id);
    return answer;
  });
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(text);
}

function searchImage(file) {
  textInput.value = "";
  history.replaceState(null, "", location.pathname + location.search);
  showQuery(URL.createObjectURL(file), file.name || "pasted image");
  search(file.name || "the pasted image", async () =>
    nearest({ vector: await embed(gallery.models.image, { b64: await base64(file) }) }));
}

// The address contains the query, so that back, forward and reload work.
function followAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  if (parameters.get("q")) searchText(parameters.get("q"));
  else if (/^\d+$/.test(parameters.get("row") ?? "")) searchRow(Number(parameters.get("row")));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = textInput.value.trim();
  if (!text) return;
  const address = `#${new URLSearchParams({ q: text })}`;
  if (location.hash === address) searchText(text); else location.hash = address;
});
imageInput.addEventListener("change", () => {
  if (imageInput.files.length) searchImage(imageInput.files[0]);
  imageInput.value = "";
});
window.addEventListener("hashchange", followAddress);

// Images that are dropped or pasted.
const filesOf = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
let depth = 0; // of elements that a dragged file is over
document.addEventListener("dragenter", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  depth += 1;
  drop.hidden = false;
});
document.addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  drop.hidden = depth === 0;
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  drop.hidden = true;
  const [file] = filesOf(event.dataTransfer);
  if (file) searchImage(file); else say("this file is not an image", true);
});
document.addEventListener("paste", (event) => {
  const [file] = filesOf(event.clipboardData);
  if (file) searchImage(file);
});

// Keyboard: "/" moves to the search box, arrow keys between results.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && document.activeElement !== textInput) {
    event.preventDefault();
    textInput.focus();
    textInput.select();
    return;
  }
  const buttons = [...results.querySelectorAll("button")];
  const current = buttons.indexOf(document.activeElement);
  if (document.activeElement === textInput && event.key === "ArrowDown" && buttons.length) {
    event.preventDefault();
    buttons[0].focus();
    return;
  }
  if (current < 0) return;
  const top = buttons[0].getBoundingClientRect().top;
  const columns = Math.max(1, buttons.filter((button) => button.getBoundingClientRect().top === top).length);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  if (current + step < 0) textInput.focus(); else buttons[Math.min(current + step, buttons.length - 1)].focus();
});

try {
  gallery = await call("gallery");
  say(`${gallery.count.toLocaleString("en")} ${gallery.kind}`);
  followAddress();
} catch (error) {
  say(error.message, true);
}
