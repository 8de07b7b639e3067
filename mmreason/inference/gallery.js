// Shows a page of the items that the file holds, filtered by words and status. Texts are set as text, never as HTML; the
// previews' HTML was made and escaped by mmreason. Only the items of the page that is shown are in the document.
"use strict";
(() => {
  const PER_PAGE = 20;
  const at = id => document.getElementById(id);
  const rows = [...document.querySelectorAll("script.item")].map(one => JSON.parse(one.textContent));
  const previews = document.querySelectorAll("script.previews");
  const card = at("card").content.firstElementChild;
  const plain = text => text.normalize("NFKC").toLowerCase();
  const haystacks = [];
  let state = { words: "", status: "", page: 1 };
  let found = [];
  let timer = 0;

  const haystack = index => (haystacks[index] ??=
    plain([rows[index].name, rows[index].prompt, rows[index].said, rows[index].reason].join("\n")));

  function matching() {
    const words = plain(state.words.trim());
    const fits = (row, index) => (!state.status || row.status === state.status) && haystack(index).includes(words);
    return rows.flatMap((row, index) => fits(row, index) ? [index] : []);
  }

  function fill(node, selector, text) {
    const place = node.querySelector(selector);
    if (text) (place.querySelector("bdi") ?? place).textContent = text;
    else place.remove();
  }

  function shown(index) {
    const row = rows[index], node = card.cloneNode(true);
    for (const [key, text] of Object.entries(row)) fill(node, `.${key}`, text);
    node.querySelector(".status").classList.toggle("bad", row.status !== "ok");
    const pictures = JSON.parse(previews[index].textContent);
    if (pictures) node.querySelector(".previews").innerHTML = pictures;
    else node.querySelector(".previews").remove();
    return node;
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    state.page = Math.min(Math.max(1, state.page), pages);
    const first = (state.page - 1) * PER_PAGE;
    at("items").replaceChildren(...found.slice(first, first + PER_PAGE).map(shown));
    at("count").textContent = `${found.length} of ${rows.length} items`;
    at("pages").textContent = pages;
    at("page").value = state.page;
    at("page").max = pages;
    at("previous").disabled = state.page === 1;
    at("next").disabled = state.page === pages;
  }

  function remember() {  // browsers limit how often the address may change
    clearTimeout(timer);
    timer = setTimeout(() => {
      const kept = Object.entries(state).filter(([key, value]) => value && !(key === "page" && value === 1));
      history.replaceState(null, "", "#" + new URLSearchParams(kept));
    }, 250);
  }

  function filter(change) {
    Object.assign(state, { page: 1 }, change);
    found = matching();
    draw();
    remember();
  }

  function turn(page) {
    state.page = page;
    draw();
    remember();
    scrollTo(0, 0);
  }

  function fromAddress() {
    clearTimeout(timer);
    const kept = new URLSearchParams(location.hash.slice(1));
    state = { words: kept.get("words") ?? "", status: kept.get("status") ?? "", page: parseInt(kept.get("page")) || 1 };
    at("words").value = state.words;
    at("status").value = state.status;
    if (at("status").value !== state.status) at("status").value = state.status = "";
    found = matching();
    draw();
  }

  function offerStatuses() {
    const counts = new Map();
    for (const row of rows) counts.set(row.status, (counts.get(row.status) ?? 0) + 1);
    at("status").append(new Option("any status", ""), ...[...counts].map(([name, n]) => new Option(`${name} (${n})`, name)));
  }

  function pressed(event) {
    const typing = event.target.matches("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && (event.target === at("words") || !typing)) {
      at("words").value = "";
      at("words").blur();
      filter({ words: "" });
    } else if (typing) return;
    else if (event.key === "/") { event.preventDefault(); at("words").focus(); }
    else if (event.key === "ArrowLeft") turn(state.page - 1);
    else if (event.key === "ArrowRight") turn(state.page + 1);
  }

  offerStatuses();
  at("words").addEventListener("input", event => filter({ words: event.target.value }));
  at("status").addEventListener("change", event => filter({ status: event.target.value }));
  at("page").addEventListener("change", event => turn(parseInt(event.target.value) || 1));
  at("previous").addEventListener("click", () => turn(state.page - 1));
  at("next").addEventListener("click", () => turn(state.page + 1));
  addEventListener("hashchange", fromAddress);
  addEventListener("keydown", pressed);
  fromAddress();
  at("reading").remove();
  at("tools").hidden = at("keys").hidden = false;
})();
