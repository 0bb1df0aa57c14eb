"use strict";
// Everything that came from data goes into the page as text, never as markup.
(() => {
  const PER_PAGE = 20;
  const KINDS = { "changed": ["fixed", "broken"], "fixed": ["fixed"], "broken": ["broken"], "both wrong": ["both wrong"] };
  const { arms, samples, pictures } = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const state = { benchmark: "", kind: "changed", words: "", page: 0, found: [] };

  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const searched = (sample) => {
    sample.searched ??= [sample.id, sample.question, ...sample.options, ...sample.references, ...sample.answers].join("\n").toLowerCase();
    return sample.searched;
  };

  const fits = (sample) =>
    (!state.benchmark || sample.benchmark === state.benchmark) &&
    (!state.words || searched(sample).includes(state.words));

  const score = (number) => String(Math.round(number * 1000) / 1000);

  const answer = (sample, place) => {
    const text = sample.answers[place];
    const said = text === null ? make("span", { class: "none" }, "not at hand")
      : text.trim() === "" ? make("span", { class: "none" }, "empty") : make("span", { class: "text" }, text);
    return [make("dt", { class: `arm${place}` }, arms[place]), make("dd", {}, said, make("span", { class: "score" }, score(sample.scores[place])))];
  };

  const listed = (name, texts) => texts.length === 0 ? []
    : [make("dt", {}, name), make("dd", { class: "text" }, texts.join("\n"))];

  // A part of a box that lies outside of the picture is cut off.
  const within = (share) => 100 * Math.min(Math.max(share, 0), 1);

  const outline = ([name, [left, top, right, bottom]]) => {
    const box = make("span", { class: `box ${name}` });
    Object.assign(box.style, { left: `${within(left)}%`, top: `${within(top)}%`, right: `${100 - within(right)}%`, bottom: `${100 - within(bottom)}%` });
    return box;
  };

  const framed = (sample, name) => make("div", { class: "frame" },
    make("img", { src: pictures[name], loading: "lazy", alt: "picture of the sample" }), ...Object.entries(sample.boxes).map(outline));

  const card = (sample) => {
    const images = sample.pictures.map((name) => framed(sample, name));
    const title = make("div", { class: "title" }, make("b", {}, sample.kind), ` · ${sample.benchmark} · sample ${sample.id}`);
    const question = sample.question === null ? [] : [make("div", { class: "text question" }, sample.question)];
    const facts = make("dl", {}, ...listed("options", sample.options), ...answer(sample, 0), ...answer(sample, 1), ...listed("expected", sample.references));
    const words = make("div", {}, title, ...question, facts);
    const kind = `${sample.kind.replace(" ", "-")}${images.length ? "" : " plainly"}`;
    return make("article", { class: kind, tabindex: "-1" }, ...(images.length ? [make("div", {}, ...images)] : []), words);
  };

  const show = () => {
    const pages = Math.max(1, Math.ceil(state.found.length / PER_PAGE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const first = state.page * PER_PAGE;
    const shown = state.found.slice(first, first + PER_PAGE);
    by("list").replaceChildren(...(shown.length ? shown.map(card) : [make("p", { class: "none" }, "No sample fits.")]));
    by("place").textContent = shown.length ? `${first + 1}–${first + shown.length} of ${state.found.length}` : "0";
    by("previous").disabled = state.page === 0;
    by("next").disabled = state.page === pages - 1;
  };

  const filter = () => {
    const fitting = samples.filter(fits);
    for (const button of by("kinds").children) {
      const kind = button.dataset.kind;
      button.textContent = `${kind} ${fitting.filter((sample) => KINDS[kind].includes(sample.kind)).length}`;
      button.setAttribute("aria-pressed", String(kind === state.kind));
    }
    state.found = fitting.filter((sample) => KINDS[state.kind].includes(sample.kind));
    state.page = 0;
    show();
  };

  const set = (change) => { Object.assign(state, change); filter(); };

  const turn = (pages) => {
    const before = state.page;
    state.page += pages;
    show();
    if (state.page !== before) by("samples").scrollIntoView();
  };

  const step = (steps) => {
    const cards = [...by("list").querySelectorAll("article")];
    const place = cards.indexOf(document.activeElement);
    const next = place < 0 ? 0 : place + steps;
    if (next >= 0 && next < cards.length) {
      cards[next].focus({ preventScroll: true });
      cards[next].scrollIntoView({ block: "start" });
    } else if (next >= cards.length && !by("next").disabled) {
      turn(1);
      step(1);
    } else if (next < 0 && !by("previous").disabled) {
      turn(-1);
      const last = [...by("list").querySelectorAll("article")].at(-1);
      last.focus();
    }
  };

  const KEYS = { j: () => step(1), k: () => step(-1), ArrowRight: () => turn(1), ArrowLeft: () => turn(-1), "/": () => by("search").focus() };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
    } else if (event.key in KEYS) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });

  for (const benchmark of new Set(samples.map((sample) => sample.benchmark))) by("benchmark").append(make("option", { value: benchmark }, benchmark));
  for (const kind of Object.keys(KINDS)) {
    const button = make("button", { type: "button", "data-kind": kind });
    button.addEventListener("click", () => set({ kind }));
    by("kinds").append(button);
  }
  by("benchmark").addEventListener("change", (event) => set({ benchmark: event.target.value }));
  by("search").addEventListener("input", (event) => set({ words: event.target.value.trim().toLowerCase() }));
  by("previous").addEventListener("click", () => turn(-1));
  by("next").addEventListener("click", () => turn(1));
  for (const link of document.querySelectorAll("a[data-benchmark]")) {
    link.addEventListener("click", () => { by("benchmark").value = link.dataset.benchmark; set({ benchmark: link.dataset.benchmark }); });
  }
  by("controls").hidden = by("keys").hidden = false;
  filter();
})();
