"""What is looked at in a drawn page, as JavaScript that answers with what is wrong."""

from __future__ import annotations

from typing import Final

# Texts whose contrast to what lies behind them is below `least`, as "ratio colour on colour: text".
CONTRAST: Final = """(least) => {
  const parse = (colour) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const known = new Map();
  const colour = (text) => known.get(text) ?? known.set(text, parse(text)).get(text);
  const over = (above, below) => {
    const [, , , a] = above;
    return [...[0, 1, 2].map((i) => above[i] * a + below[i] * (1 - a)), 1];
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      layers.push(colour(getComputedStyle(one).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const light = (rgb) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const wrong = [];
  let looked = 0;
  const look = (element, text, pseudo) => {
    if (!element.checkVisibility()) return;
    looked += 1;
    const ground = behind(element);
    const ink = over(colour(getComputedStyle(element, pseudo).color), ground);
    const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least) wrong.push(`${ratio.toFixed(2)} ${ink} on ${ground}: ${text.slice(0, 40)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (text && !["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName)) look(element, text);
  }
  for (const element of document.querySelectorAll("input, textarea, select")) look(element, element.id);
  for (const element of document.querySelectorAll("td, .talk")) {
    const told = getComputedStyle(element, "::before").content;
    if (!["none", "normal"].includes(told)) look(element, told, "::before");
  }
  return { wrong, looked };
}"""

# Everything that takes the keyboard and is there to be seen, as its id or what it holds.
CONTROLS: Final = """() => [...document.querySelectorAll(
  'a[href], button, input, select, textarea, summary, [tabindex="0"]')]
  .filter((element) => element.checkVisibility() && !element.disabled)
  .map((element) => element.id || element.getAttribute("aria-labelledby"))"""

# What has the keyboard now, and whether that can be seen.
FOCUSED: Final = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [element.id || element.getAttribute("aria-labelledby") || element.tagName, seen];
}"""

# What reaches beyond the window to the right although nothing scrolls it, and what would have to be scrolled
# sideways.
WIDER: Final = """() => {
  const scrolled = (element) => { for (let one = element.parentElement; one; one = one.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(one).overflowX)) return true; return false; };
  const wide = [...document.body.querySelectorAll("*")].filter((element) => element.checkVisibility()
    && element.getBoundingClientRect().right > innerWidth + 0.5 && !scrolled(element));
  const scrolls = [...document.querySelectorAll(".scroll, .talk")];
  wide.push(...scrolls.filter((one) => one.scrollWidth > one.clientWidth));
  const page = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
  return [...page, ...wide.map((element) => `${element.tagName} ${element.id} ${element.className}`)];
}"""
