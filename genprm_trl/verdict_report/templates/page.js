"use strict";
// Text of problems, steps and models reaches the page as text nodes alone: nothing here writes HTML.
(() => {
  const PAGE_SIZE = 50;
  const SHOWN_CHARACTERS = 20000; // of one text, before a button shows the rest
  const CACHED_CHARACTERS = 64e6; // of searchable text
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const $ = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en");
  // Of one verifier a row is its verdict; of several it has the others', and each says whose it is.
  const all = (row) => [row, ...(row.others || [])];
  const compared = rows.length > 0 && "others" in rows[0];
  const percent = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

  // -- Making elements ------------------------------------------------------------------------------------------------

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }

  function shape(tag, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  /** Fills an element with a text, what was searched for marked, and no more of it at first than can be read. */
  function fill(element, text) {
    const shown = text.length > SHOWN_CHARACTERS ? text.slice(0, SHOWN_CHARACTERS) : text;
    element.replaceChildren(...marked(shown));
    if (shown.length < text.length) {
      const more = make("button", { type: "button", class: "raw" }, `Show all ${number.format(text.length)} characters`);
      more.addEventListener("click", () => element.replaceChildren(...marked(text)));
      element.append("… ", more);
    }
    return element;
  }

  function marked(text) {
    if (!query) return [text];
    const pattern = new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
    const pieces = [];
    let end = 0;
    for (const match of text.matchAll(pattern)) {
      pieces.push(text.slice(end, match.index), make("mark", null, match[0]));
      end = match.index + match[0].length;
    }
    pieces.push(text.slice(end));
    return pieces.filter((piece) => piece !== "");
  }

  const plural = (count, word) => `${number.format(count)} ${word}${count === 1 ? "" : "s"}`;
  const short = (reward) => (reward >= 0.995 ? "1.0" : reward.toFixed(2).slice(1));
  const level = (reward) => `r${Math.round(reward * 10)}`;
  const STATUS = {
    fallback: "the verdict was forced",
    no_verdict: "no verdict was written",
    truncated: "the model's context was full",
    error: "the generator or the sandbox failed",
  };

  // -- Blocks: everything about a verdict that the list does not show -----------------------------------------------------

  const loaded = new Promise((resolve) => {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", resolve, { once: true });
    else resolve();
  });

  /** One object for each verifier; problem and steps are in one of them. */
  async function details(index) {
    let block = $(`block-${index}`);
    // The last block there is may still be arriving.
    if (document.readyState === "loading" && !(block && block.nextElementSibling)) {
      await loaded;
      block = $(`block-${index}`);
    }
    return Promise.all(block.content.textContent.split(" ").map(unpack));
  }

  async function unpack(block) {
    const packed = atob(block);
    const bytes = new Uint8Array(packed.length);
    for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  const searchable = new Map();
  let cached = 0;

  async function searchText(index) {
    if (searchable.has(index)) return searchable.get(index);
    const verdicts = await details(index);
    const parts = [rows[index].id];
    for (const verdict of verdicts) {
      parts.push(verdict.problem || "", verdict.answer || "", verdict.generator || "", ...(verdict.steps || []));
    }
    for (const chain of verdicts.flatMap((verdict) => verdict.chains)) {
      for (const judgement of chain) {
        parts.push(judgement.passages.map((passage) => passage[1]).join(""));
        for (const [code, output] of judgement.others) parts.push(code, output);
      }
    }
    const text = parts.join("\n").toLowerCase();
    if (cached + text.length <= CACHED_CHARACTERS) {
      cached += text.length;
      searchable.set(index, text);
    }
    return text;
  }

  // -- Filters and order ----------------------------------------------------------------------------------------------

  const known = rows.some((row) => "final" in row);
  const flagged = (row) => row.prediction >= 0 && !row.unread;
  const labelled = (row) => row.label !== null;
  const agrees = (row) => !row.unread && row.prediction === row.label;
  const some = (test) => (row) => all(row).some(test);
  const same = (row) => all(row).every((one) => !one.unread && one.prediction === row.prediction);
  const alone = (place, test) => (row) => all(row).every((one, other) => labelled(one) && test(one) === (other === place));
  const filters = {
    between: [
      ["any", () => true],
      ["disagree", (row) => !same(row)],
      ["agree", same],
      ...(compared ? all(rows[0]) : []).flatMap(({ verifier }, place) => [
        [`only ${verifier} is right`, alone(place, agrees)],
        [`only ${verifier} is wrong`, alone(place, (row) => !agrees(row))],
      ]),
    ],
    verdict: [
      ["any", () => true],
      ["a step judged wrong", flagged],
      ["no step judged wrong", (row) => !flagged(row) && !row.unread],
      ["rationales disagree", (row) => row.agree < row.chains],
    ],
    label: [
      ["any", () => true],
      ["agrees", (row) => labelled(row) && agrees(row)],
      ["disagrees", (row) => labelled(row) && !agrees(row)],
      ["missed the error", (row) => labelled(row) && row.label >= 0 && !flagged(row)],
      ["flagged another step", (row) => labelled(row) && row.label >= 0 && flagged(row) && row.prediction !== row.label],
      ["flagged a correct solution", (row) => row.label === -1 && flagged(row)],
      ["has no label", (row) => !labelled(row)],
    ],
    final: [
      ["any", () => true],
      ["right", (row) => row.final === true],
      ["wrong", (row) => row.final === false],
      ["not known", (row) => row.final !== true && row.final !== false],
    ],
    status: [
      ["any", () => true],
      ...["ok", "fallback", "no_verdict", "truncated", "error"].map((name) => [name, (row) => row.statuses[name] > 0]),
    ],
  };
  // Of several verifiers it is enough that one of them passes.
  for (const name of ["verdict", "label", "status"]) for (const choice of filters[name]) choice[1] = some(choice[1]);
  const lowest = (row) => Math.min(1, ...row.rewards);
  const orders = [
    ["as in the file", null],
    ["lowest reward first", lowest],
    ["nearest to the threshold first", (row) => Math.abs(lowest(row) - row.threshold)],
    ["most disputed first", (row) => (row.chains ? row.agree / row.chains : 1)],
  ];

  function prepare() {
    for (const [name, choices] of Object.entries(filters)) {
      choices.forEach(([words, test], place) => {
        const count = rows.filter(test).length;
        const option = make("option", { value: place }, place ? `${words} (${number.format(count)})` : words);
        option.disabled = place > 0 && count === 0;
        $(name).append(option);
      });
      $(name).addEventListener("change", update);
    }
    orders.forEach(([words], place) => $("order").append(make("option", { value: place }, words)));
    $("order").addEventListener("change", update);
    $("between").parentElement.hidden = !compared;
    $("final").parentElement.hidden = !known;
    $("label").parentElement.hidden = !rows.some(labelled);
  }

  let chosen = []; // indices of the rows that pass
  let page = 0;
  let query = "";
  let running = 0;

  function update() {
    const tests = Object.entries(filters).map(([name, choices]) => choices[Number($(name).value)][1]);
    for (const name of [...Object.keys(filters), "order"]) $(name).classList.toggle("set", $(name).value !== "0");
    const passing = [...rows.keys()].filter((index) => tests.every((test) => test(rows[index])));
    const by = orders[Number($("order").value)][1];
    if (by) {
      const keys = rows.map((row) => Math.min(...all(row).map(by)));
      passing.sort((a, b) => keys[a] - keys[b] || a - b);
    }
    query = $("query").value.trim();
    running++;
    page = 0;
    if (query) search(passing, query.toLowerCase(), running);
    else show(passing);
  }

  async function search(candidates, wanted, mine) {
    const found = [];
    let drawn = -1;
    let pause = performance.now();
    for (let start = 0; start < candidates.length; start += 16) {
      const batch = candidates.slice(start, start + 16);
      const texts = await Promise.all(batch.map(searchText));
      if (mine !== running) return;
      batch.forEach((index, place) => {
        if (texts[place].includes(wanted)) found.push(index);
      });
      if (performance.now() - pause > 60) {
        const done = Math.min(start + 16, candidates.length);
        // The first page is drawn while it grows, and then left alone under the reader's eyes.
        if (found.length !== drawn && drawn < PAGE_SIZE) show(found.slice(), done / candidates.length);
        else tell(found.length, done / candidates.length);
        drawn = found.length;
        await new Promise((resolve) => setTimeout(resolve));
        if (mine !== running) return;
        pause = performance.now();
      }
    }
    const keep = page;
    if (drawn >= PAGE_SIZE) {
      chosen = found;
      tell(found.length);
      turnable();
      page = keep;
    } else show(found);
  }

  function tell(count, done) {
    const all = rows.length;
    const words = count === all ? plural(all, "solution") : `${number.format(count)} of ${plural(all, "solution")}`;
    $("count").textContent = done === undefined ? words : `${words}; ${Math.round(100 * done)} % searched`;
  }

  // -- The list -------------------------------------------------------------------------------------------------------

  const opened = new Set();

  function show(indices, done) {
    chosen = indices;
    tell(indices.length, done);
    draw();
  }

  function draw() {
    const indices = chosen.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
    $("list").start = page * PAGE_SIZE + 1;
    $("list").replaceChildren(...indices.map(listItem));
    turnable();
  }

  function turnable() {
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE_SIZE));
    $("page").textContent = `Page ${page + 1} of ${pages}`;
    $("previous").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
    $("pages").hidden = pages === 1;
  }

  function turn(by, focusLast) {
    const pages = Math.ceil(chosen.length / PAGE_SIZE);
    if (page + by < 0 || page + by >= pages) return;
    page += by;
    draw();
    const summaries = document.querySelectorAll(".solution > details > summary");
    focusOn(summaries[focusLast ? summaries.length - 1 : 0]);
  }

  function focusOn(summary) {
    if (!summary) return;
    summary.focus({ preventScroll: true });
    summary.scrollIntoView({ block: "nearest" });
  }

  const stepName = (index) => (index < 0 ? "no step" : `step ${index + 1}`);

  function strip(row) {
    const said = row.rewards.map((reward, step) => {
      const notes = [];
      if (step === row.prediction) notes.push("judged wrong");
      if (step === row.label) notes.push("wrong by the label");
      return `step ${step + 1} ${reward.toFixed(2)}${notes.length ? ` (${notes.join(", ")})` : ""}`;
    });
    const cells = row.rewards.map((reward, step) =>
      make("span", { class: cellClass(row, step, reward), title: said[step] }, short(reward)));
    return make("span", { class: "strip", role: "img", "aria-label": `Rewards: ${said.join(", ") || "none"}` }, ...cells);
  }

  function cellClass(row, step, reward) {
    return `cell ${level(reward)}${step === row.prediction ? " flagged" : ""}${step === row.label ? " labelled" : ""}`;
  }

  function says(row) {
    const verdict = flagged(row)
      ? make("b", { class: "wrong" }, `✗ step ${row.prediction + 1} judged wrong`)
      : make("b", null, row.unread ? "a step that decides has no verdict" : "✓ no step judged wrong");
    const facts = [];
    if (labelled(row)) {
      facts.push(agrees(row)
        ? "label agrees"
        : make("span", { class: "differs" }, `≠ label: ${row.label < 0 ? "all right" : stepName(row.label)}`));
    }
    if (row.chains > 1) facts.push(row.agree === row.chains ? `all ${row.chains} agree` : `${row.agree} of ${row.chains} agree`);
    if (row.final === true || row.final === false) facts.push(`answer ${row.final ? "right" : "wrong"}`);
    for (const [status, count] of Object.entries(row.statuses)) if (status !== "ok") facts.push(`${count} ${status}`);
    return make("span", { class: "says" }, verdict, make("small", null, ...joined(facts)));
  }

  const joined = (facts) => facts.flatMap((fact, place) => (place ? [" · ", fact] : [fact]));

  function listItem(index) {
    const row = rows[index];
    const what = make("span", { class: "what" }, fill(make("b", null), row.id.slice(0, 200)));
    if (row.problem) what.append(fill(make("span", null), row.problem));
    const said = compared
      ? [make("span", { class: "verifiers" }, ...all(row).map((one) =>
        make("span", null, make("span", { class: "by" }, one.verifier), strip(one), says(one))))]
      : [strip(row), says(row)];
    const summary = make("summary", null, make("span", { class: "fold", "aria-hidden": "true" }), what, ...said);
    const item = make("details", { open: opened.has(index) }, summary);
    unfoldOnce(item, () => body(index));
    item.addEventListener("toggle", () => (item.open ? opened.add(index) : opened.delete(index)));
    return make("li", { class: "solution", "data-index": index }, item);
  }

  /** Puts what `build` makes into a `details` element when it is first opened. Returns a promise of that. */
  function unfoldOnce(item, build) {
    let built = null;
    item.unfold = () => {
      if (!built) {
        item.open = true;
        built = Promise.resolve(build()).catch((error) =>
          make("p", { class: "notice" }, `This part of the page cannot be read: ${error.message}`)).then((part) => item.append(part));
      }
      return built;
    };
    item.addEventListener("toggle", () => item.open && item.unfold());
    if (item.open) item.unfold();
  }

  // -- A solution unfolded --------------------------------------------------------------------------------------------

  async function body(index) {
    const row = rows[index];
    const verdicts = await details(index);
    const texts = verdicts.find((verdict) => verdict.steps) || {};
    const facts = [`id ${row.id}`];
    if (texts.generator) facts.push(`written by ${texts.generator}`);
    if (texts.answer) facts.push(`reference answer ${texts.answer}`);
    for (const one of all(row)) {
      const by = compared ? `${one.verifier}: ` : "";
      if (one.asked > one.chains) facts.push(`${by}${one.chains} of ${one.asked} rationales were enough`);
      facts.push(`${by}threshold ${one.threshold}`);
    }
    const part = make("div", { class: "body" }, fill(make("p", { class: "facts plain" }), facts.join(" · ")));
    if (texts.problem) part.append(fill(make("p", { class: "problem plain" }), texts.problem));
    // Steps that were not judged are steps all the same.
    const count = Math.max(...all(row).map((one) => one.rewards.length), texts.steps ? texts.steps.length : 0);
    for (let step = 0; step < count; step++) part.append(stepPart(row, verdicts, texts, step));
    if (!count) part.append(make("p", { class: "facts" }, "No step was judged."));
    return part;
  }

  function stepPart(row, verdicts, texts, step) {
    const said = make("span", { class: "said" });
    for (const one of all(row)) {
      const by = compared ? `${one.verifier}: ` : "";
      if (step === one.prediction) said.append(make("span", { class: "tag judged" }, `✗ ${by}judged wrong`));
    }
    if (step === row.label) said.append(make("span", { class: "tag" }, "▲ wrong by the label"));
    if (texts.steps) said.append(fill(make("span", { class: "plain" }), texts.steps[step]));
    const cells = all(row).map((one) => {
      const reward = one.rewards[step];
      return reward === undefined
        ? make("span", { class: "number" }, "–")
        : make("span", { class: cellClass(one, step, reward), title: one.verifier }, short(reward));
    });
    const summary = make(
      "summary",
      { class: compared ? "compared" : null },
      make("span", { class: "fold", "aria-hidden": "true" }),
      make("span", { class: "number" }, make("span", { class: "hidden" }, "Step "), String(step + 1)),
      make("span", { class: "cells" }, ...cells),
      said,
    );
    const judgements = verdicts.map((verdict) => verdict.chains.map((chain) => chain[step]));
    if (!compared) summary.append(spread(judgements[0].filter(Boolean), row.threshold));
    const item = make("details", { class: "step", open: all(row).some((one) => step === one.prediction) }, summary);
    unfoldOnce(item, () => {
      const parts = all(row).map((one, place) => chainsPart(judgements[place], one, one.rewards[step] !== undefined));
      return parts.length === 1 ? parts[0] : make("div", null, ...parts);
    });
    return item;
  }

  /** Where the rewards of the chains lie between 0 and 1. */
  function spread(judgements, threshold) {
    const drawing = shape("svg", { class: "spread", viewBox: "0 0 128 26", role: "img" });
    const rewards = judgements.map((judgement) => judgement.reward);
    const low = Math.min(...rewards).toFixed(2);
    const high = Math.max(...rewards).toFixed(2);
    drawing.setAttribute("aria-label", rewards.length ? `${plural(rewards.length, "rationale")}, rewards ${low} to ${high}` : "no rationales");
    if (!rewards.length) return drawing;
    const x = (value) => 5 + 118 * value;
    drawing.append(shape("line", { class: "scale", x1: x(0), x2: x(1), y1: 13, y2: 13 }));
    drawing.append(shape("line", { class: "at", x1: x(threshold), x2: x(threshold), y1: 2, y2: 24 }));
    const placed = [];
    for (const reward of rewards) {
      // Equal ones step aside, so that they can be counted.
      const near = placed.filter((other) => Math.abs(x(other) - x(reward)) < 5).length;
      const aside = [0, -4, 4, -8, 8][near % 5];
      placed.push(reward);
      drawing.append(shape("circle", { class: reward < threshold ? "below" : "above", cx: x(reward), cy: 13 + aside, r: 2.8 }));
    }
    return drawing;
  }

  function chainsPart(judgements, row, judged) {
    const part = make("div", { class: "chains" });
    if (compared) part.append(make("h4", null, row.verifier, spread(judgements.filter(Boolean), row.threshold)));
    if (!judged) {
      part.append(make("p", null, "This step was not judged: judging ended before it."));
      return part;
    }
    if (!judgements.length) part.append(make("p", null, "The file keeps no rationales of this verdict."));
    judgements.forEach((judgement, chain) => part.append(chainPart(judgement, chain, row, judgements.length)));
    return part;
  }

  function chainPart(judgement, chain, row, count) {
    const summary = make("summary", null, make("span", { class: "fold", "aria-hidden": "true" }), make("b", null, `Rationale ${chain + 1}`));
    const item = make("details", { class: "chain" }, summary);
    if (!judgement) {
      summary.append("does not judge this step");
      unfoldOnce(item, () => make("div"));
      return item;
    }
    const wrong = judgement.reward < row.threshold;
    summary.append(make("span", { class: `cell ${level(judgement.reward)}` }, judgement.reward.toFixed(3)), wrong ? "✗ wrong" : "✓ right");
    if (judgement.status !== "ok") summary.append(make("span", { class: "odd" }, `${judgement.status}: ${STATUS[judgement.status]}`));
    if (judgement.rounds) summary.append(make("span", null, `${plural(judgement.rounds, "code block")} run`));
    summary.append(make("span", null, plural(judgement.tokens, "token")));
    unfoldOnce(item, () => rationale(judgement));
    if (chain === 0 && count === 1) item.open = true;
    return item;
  }

  const TITLES = {
    analysis: "Analysis",
    code: "Code",
    claimed_output: "Output as the model wrote it (no such run was recorded)",
    verdict: "Verdict",
  };
  const time = (seconds) => (seconds < 1 ? `${percent.format(1000 * seconds)} ms` : `${percent.format(seconds)} s`);

  function rationale(judgement) {
    const part = make("div", { class: "rationale" });
    const asWritten = judgement.passages.map((passage) => passage[1]).join("");
    const readable = make("div", { class: "rationale" });
    for (const [kind, text, status, seconds] of judgement.passages) {
      if (kind === "mark" || !text.trim()) {
        if (kind !== "output") continue;
      }
      let title = TITLES[kind];
      if (kind === "output") title = status ? `Output of the code: ${status}, ${time(seconds)}` : "Answer of the interpreter";
      const block = make("div", null, title ? make("h4", null, title) : null);
      block.append(["code", "output", "claimed_output"].includes(kind)
        ? fill(make("pre", { class: kind === "code" ? "code" : "out", tabindex: "0", "aria-label": title }), text || "(nothing)")
        : fill(make("p", { class: "plain" }), text.trim()));
      readable.append(block);
    }
    if (!asWritten) readable.append(make("p", null, "No text of this rationale was kept."));
    for (const [code, output, status, seconds] of judgement.others) {
      readable.append(
        make("div", null, make("h4", null, "Code that ran and is no longer in the text"), fill(make("pre", { class: "code", tabindex: "0" }), code)),
        make("div", null, make("h4", null, `Output of the code: ${status}, ${time(seconds)}`), fill(make("pre", { class: "out", tabindex: "0" }), output || "(nothing)")),
      );
    }
    part.append(...readable.childNodes);
    if (!asWritten) return part;
    const raw = make("button", { type: "button", class: "raw", "aria-pressed": "false" }, "Text as written");
    const parts = [...part.childNodes];
    raw.addEventListener("click", () => {
      const on = raw.getAttribute("aria-pressed") === "false";
      raw.setAttribute("aria-pressed", String(on));
      raw.textContent = on ? "In parts again" : "Text as written";
      part.replaceChildren(...(on ? [fill(make("pre", { tabindex: "0" }), asWritten)] : parts), raw);
    });
    part.append(raw);
    return part;
  }

  async function unfoldAll(item) {
    const all = [item, ...item.querySelectorAll("details")];
    if (item.dataset.all === "yes") {
      item.dataset.all = "";
      for (const one of all) one.open = false;
      item.querySelector("summary").focus();
      return;
    }
    item.dataset.all = "yes";
    const visit = async (one) => {
      one.open = true;
      await one.unfold();
      for (const inner of one.querySelectorAll("details")) await visit(inner);
    };
    await visit(item);
  }

  // -- Keys and settings ------------------------------------------------------------------------------------------------

  function remembered(name, value) {
    try { // storage may be closed to pages from files
      if (value === undefined) return localStorage.getItem(`genprm-report-${name}`);
      localStorage.setItem(`genprm-report-${name}`, value);
    } catch { /* then it holds for this visit */ }
    return null;
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    $("theme").value = theme;
  }

  function move(by) {
    const summaries = [...document.querySelectorAll(".solution > details > summary")];
    const item = document.activeElement && document.activeElement.closest(".solution");
    const at = item ? summaries.findIndex((summary) => item.contains(summary)) : by > 0 ? -1 : 0;
    if (at + by >= 0 && at + by < summaries.length) focusOn(summaries[at + by]);
    else turn(by, by < 0);
  }

  const keys = {
    j: () => move(1),
    k: () => move(-1),
    "]": () => turn(1),
    "[": () => turn(-1),
    "/": () => $("query").focus(),
    "?": () => $("help").showModal(),
    e: () => {
      const item = document.activeElement && document.activeElement.closest(".solution");
      if (item) unfoldAll(item.firstElementChild);
    },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("help").open) return;
    const target = event.target;
    if (target === $("query") && event.key === "Escape") {
      event.preventDefault();
      if (target.value) {
        target.value = "";
        update();
      } else target.blur();
      return;
    }
    if (target.closest("input, select, textarea") || !$("keys-on").checked) return;
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  let typing = 0;
  $("query").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(update, 200);
  });
  $("reset").addEventListener("click", () => {
    for (const name of [...Object.keys(filters), "order"]) $(name).value = "0";
    $("query").value = "";
    update();
  });
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("keys-on").addEventListener("change", () => remembered("keys", $("keys-on").checked ? "on" : "off"));
  $("theme").addEventListener("change", () => {
    setTheme($("theme").value);
    remembered("theme", $("theme").value);
  });
  $("keys-on").checked = remembered("keys") !== "off";
  if (["light", "dark"].includes(remembered("theme"))) setTheme(remembered("theme"));
  prepare();
  update();
  performance.mark("solutions-listed");
})();
