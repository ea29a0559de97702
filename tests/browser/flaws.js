// What a person who reads by ear, or sees little, would miss on a page: a function body that returns sentences.
const found = [];

// Relative luminance and contrast as WCAG 2.2 defines them; 4.5 is what level AA asks of text.
const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const luminance = colour => {
  const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
  return .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
};
const ground = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\)$/.test(colour)) return colour;
  }
  return 'rgb(255, 255, 255)';
};

for (const e of document.querySelectorAll('body *')) {
  const says = [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
  if (!says || !e.checkVisibility()) continue;
  const style = getComputedStyle(e);
  const shades = [luminance(e instanceof SVGElement ? style.fill : style.color), luminance(ground(e))].sort((a, b) => a - b);
  const what = `${e.tagName} "${e.textContent.trim().slice(0, 30)}"`;
  if ((shades[1] + .05) / (shades[0] + .05) < 4.5) found.push(`too little contrast of ${what}`);
  if (!(e instanceof SVGElement) && parseFloat(style.fontSize) < 11) found.push(`text of ${style.fontSize}: ${what}`);
}
for (const e of document.querySelectorAll('svg')) {
  if (!(e.getAttribute('aria-label') || '').includes('.')) found.push('a chart without words');
}
for (const e of document.querySelectorAll('audio, [role=region], nav')) {
  if (!e.getAttribute('aria-label')) found.push(`${e.tagName} without a name`);
}
if (document.querySelectorAll('h1').length !== 1) found.push('not one h1');
return [...new Set(found)];
