// Markdown as elements: headings, paragraphs, lists, quotes, tables, rules, fenced code; bold, italic, struck, code and
// links inside a line. No HTML is ever parsed, so what looks like HTML is shown as it is written.

import { copyButton, h } from "./dom.js";

/**
 * Shows a text that grows: only blocks that changed are made anew.
 *
 * @param {HTMLElement} element whose children are the blocks
 */
export function show(element, text) {
  const wanted = blocks(text);
  wanted.forEach((block, at) => {
    const there = element.children[at];
    if (there?.source === block) return;
    const made = render(block);
    made.source = block;
    if (there) there.replaceWith(made);
    else element.append(made);
  });
  while (element.children.length > wanted.length) element.lastChild.remove();
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Cuts a text into blocks: lines that belong together. */
function blocks(text) {
  const found = [];
  let block = [];
  let fence = null;
  const end = () => {
    if (block.length) found.push(block.join("\n"));
    block = [];
  };
  for (const line of text.split("\n")) {
    if (fence) {
      block.push(line);
      if (line.trim() === fence) {
        fence = null;
        end();
      }
      continue;
    }
    const opening = FENCE.exec(line);
    if (opening) {
      end();
      fence = opening[1];
      block.push(line);
    } else if (!line.trim()) {
      // A blank line does not end a list that goes on with an indented line: `render` looks at lists alone.
      end();
    } else if (HEADING.test(line) || RULE.test(line)) {
      end();
      block.push(line);
      end();
    } else {
      const starts = (line) => (ITEM.test(line) ? "item" : QUOTE.test(line) ? "quote" : "text");
      if (block.length && starts(line) !== "text" && starts(block[0]) === "text") end();
      block.push(line);
    }
  }
  end();
  return found;
}

function render(block) {
  const lines = block.split("\n");
  const first = lines[0];
  const fence = FENCE.exec(first);
  if (fence) return code(lines, fence);
  const heading = HEADING.exec(first);
  // The page's own headings come first.
  if (heading) return h(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2]));
  if (RULE.test(first)) return h("hr");
  if (ITEM.test(first)) return list(lines);
  if (QUOTE.test(first)) {
    const quote = h("blockquote");
    show(quote, lines.map((line) => line.replace(QUOTE, "")).join("\n"));
    return quote;
  }
  if (lines.length > 1 && first.includes("|") && TABLE_RULE.test(lines[1])) return table(lines);
  return h("p", {}, ...inline(block));
}

function code(lines, [, fence, language]) {
  const closed = lines.length > 1 && lines.at(-1).trim() === fence;
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const head = h("div", { class: "code-head" }, h("span", {}, language || "text"), copyButton(() => text));
  return h("div", { class: "code" }, head, h("pre", { tabIndex: 0 }, h("code", {}, text)));
}

function list(lines) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const isOrdered = /\d/.test(mark);
  const made = h(isOrdered ? "ol" : "ul");
  if (isOrdered) made.start = Number.parseInt(mark, 10);
  let item = null;
  const end = () => {
    if (!item) return;
    const [head, ...below] = item;
    const element = h("li", {}, ...inline(head));
    if (below.length) {
      const inner = h("div");
      show(inner, outdented(below).join("\n"));
      element.append(...inner.children);
    }
    made.append(element);
  };
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= indent.length) {
      end();
      item = [found[3]];
    } else item.push(line);
  }
  end();
  return made;
}

function outdented(lines) {
  const depth = Math.min(...lines.map((line) => line.search(/\S|$/)));
  return lines.map((line) => line.slice(depth));
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, tag) => h("tr", {}, ...cells(line).map((cell) => h(tag, {}, ...inline(cell))));
  const body = h("tbody", {}, ...lines.slice(2).map((line) => row(line, "td")));
  return h("div", { class: "table", tabIndex: 0 }, h("table", {}, h("thead", {}, row(lines[0], "th")), body));
}

const INLINE = /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)\*\*|~~(.+?)~~|(?<![\w*])\*(?=\S)([^*\n]+?)\*(?!\*)|(?<!\w)_(?=\S)([^_\n]+?)_(?!\w)|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>)\]"'`]*[^\s<>)\]"'`.,;:!?])/gs;

/** The parts of a line. */
function inline(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(at, found.index));
    const [whole, , verbatim, bold, struck, star, dash, label, target, bare] = found;
    if (verbatim !== undefined) parts.push(h("code", {}, verbatim));
    else if (bold !== undefined) parts.push(h("strong", {}, ...inline(bold)));
    else if (struck !== undefined) parts.push(h("s", {}, ...inline(struck)));
    else if (star !== undefined || dash !== undefined) parts.push(h("em", {}, ...inline(star ?? dash)));
    else parts.push(h("a", { href: target ?? bare, target: "_blank", rel: "noopener noreferrer" }, label ?? bare));
    at = found.index + whole.length;
  }
  parts.push(text.slice(at));
  return parts.filter((part) => part !== "");
}
