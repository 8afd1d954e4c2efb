// A figure that lives without a kernel. data.js, which modspec.explorer.live writes, holds the
// numbers; here the networks answer, and are drawn.
'use strict';
(() => {
const {units: N, steps, networks, curves, pairs, labels} = modspecLive, CLASSES = 10;
const SHOWN = 20;  // of each direction, the strongest links are drawn by themselves
const DIRECTIONS = [[0, 1], [1, 0]];  // receiver and sender, in the order of W_sparse

// ---- the numbers

const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const images = bytes(modspecLive.images), PIXELS = images.length / labels.length;
const pixels = index => images.subarray(index * PIXELS, (index + 1) * PIXELS);
const unpacked = ({scale, values}) =>
  Float64Array.from(new Int8Array(bytes(values).buffer), whole => whole * scale);

function linksOf(W) {  // every link of a network, for each direction the strongest first
  return DIRECTIONS.map(([to, from], d) => {
    const found = [];
    for (let at = d * N * N; at < (d + 1) * N * N; at++) {
      const i = Math.floor(at / N) % N, j = at % N;
      if (W[at]) found.push({at, to, from, i, j, weight: W[at]});
    }
    return found.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  });
}

const opened = [];
function network(k) {  // with its weights as numbers
  if (!opened[k]) {
    const {sparsity, links, weights} = networks[k];
    const W = Object.fromEntries(Object.entries(weights).map(([name, w]) => [name, unpacked(w)]));
    opened[k] = {sparsity, count: links, W, links: linksOf(W.W_sparse)};
  }
  return opened[k];
}

// ---- the forward pass, from the equations of the chapter on recurrent networks

function add(out, first, W, start, x, columns) {  // out + W x, for the rows of one sub-network
  for (let i = 0, at = start; i < N; i++) {
    let sum = 0;
    for (let j = 0; j < columns; j++) sum += W[at++] * x[first * columns + j];
    out[first * N + i] += sum;
  }
}

function heard(net, silent = new Set()) {  // the links that are not silent, for `respond`
  const kept = net.links.flat().filter(({at}) => !silent.has(at));
  return {to: Int16Array.from(kept, ({to, i}) => to * N + i), from: Int16Array.from(kept,
    ({from, j}) => from * N + j), weight: Float64Array.from(kept, ({weight}) => weight)};
}

function respond({W}, {to, from, weight}, pair) {  // last state, read-outs, who decides, what
  const input = Float64Array.from(pair.flatMap(image => [...pixels(image)]), byte => byte / 255);
  const drive = W.b_ih.map((bias, unit) => bias + W.b_hh[unit]);
  for (const n of [0, 1]) add(drive, n, W.W_ih, n * N * PIXELS, input, PIXELS);
  let h = drive.map(Math.tanh);
  for (let t = 1; t < steps; t++) {
    const next = drive.slice();
    for (const n of [0, 1]) add(next, n, W.W_hh, n * N * N, h, N);
    for (let link = 0; link < weight.length; link++) next[to[link]] += weight[link] * h[from[link]];
    h = next.map(Math.tanh);
  }
  const states = [0, 1].map(n => h.subarray(n * N, (n + 1) * N));
  const readouts = states.map((state, n) => Array.from({length: CLASSES}, (_, c) => state.reduce(
    (sum, x, i) => sum + W.W_hr[(n * CLASSES + c) * N + i] * x, W.b_hr[n * CLASSES + c])));
  const most = readouts.map(r => Math.max(...r)), decider = most[1] > most[0] ? 1 : 0;
  const says = readouts.map((r, n) => r.indexOf(most[n]));
  return {states, readouts, says, decider, answer: says[decider]};
}

const asked = ([a, b]) => labels[(labels[a] + labels[b]) % 2 ? a : b];
const allowed = (a, b) => (b - a + 10) % 10 > 1;  // which pairs of digits networks are shown

function* counted(net, links) {  // the share of right answers, with pauses
  let right = 0;
  for (const [at, pair] of pairs.entries()) {
    right += respond(net, links, pair).answer === asked(pair);
    if (at % 20 === 19) yield;
  }
  return right / pairs.length;
}

// for tests, and for whoever wants to ask networks from the console
modspecLive.linksOf = k => network(k).links.flat().map(({at}) => at);
modspecLive.compute = (k, pair, silent = []) => {
  const {states, ...answer} = respond(network(k), heard(network(k), new Set(silent)), pair);
  return {states: states.map(state => [...state]), ...answer};
};
modspecLive.accuracy = (k, silent = []) => {
  const count = counted(network(k), heard(network(k), new Set(silent)));
  for (;;) { const {done, value} = count.next(); if (done) return value; }
};

// ---- the page

const root = document.querySelector('.modspec-live');
const color = n => `var(--sub${n})`;
root.innerHTML = `<figure>
  <div class="parts">
    <div>
      <svg class="curves" viewBox="0 0 400 306" role="img"></svg>
      <input type="range" min="0" max="${networks.length - 1}" step="1" aria-label="sparsity p">
      <p class="where"></p>
      <div class="row">${[0, 1].map(n => `<label>digit ${n}
        <select data-digit="${n}">${[...Array(10).keys()].map(d => `<option>${d}</option>`).join('')}
        </select></label>`).join('')}<button data-do="next">next pair</button></div>
      <p class="verdict" aria-live="polite"></p>
    </div>
    <div>
      <div class="layers">
        <canvas width="800" height="848"></canvas>
        <svg class="network" viewBox="0 0 400 424" role="group" aria-label="units and links"></svg>
      </div>
      <div class="row" role="group" aria-label="Silence all links">Silence all links
        ${[1, 0].map(d => `<button data-direction="${d}"><span>${
          DIRECTIONS[d][1]} → ${DIRECTIONS[d][0]}</span></button>`).join('')}
        <button data-do="restore">none</button></div>
      <p class="hint"></p>
      <p class="right" aria-live="polite"></p>
    </div>
  </div>
  <figcaption>${modspecLive.caption}</figcaption>
</figure>`;
const find = selector => root.querySelector(selector);

function draw(name, attributes, parent, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

// ---- the curves

const plot = {left: 34, right: 392, top: 46, bottom: 258};
const x = p => plot.right + (plot.right - plot.left) * Math.log10(p) / 4;
const y = value => plot.bottom - (plot.bottom - plot.top) * value;
const path = points =>
  'M' + points.map(([p, value]) => `${x(p).toFixed(1)},${y(value).toFixed(1)}`).join('L');

function drawCurves(svg) {
  for (const value of [0, .2, .4, .6, .8, 1]) {
    draw('path', {class: 'axis', d: `M${plot.left},${y(value)}H${plot.right}`}, svg);
    draw('text', {class: 'small', x: plot.left - 6, y: y(value) + 4, 'text-anchor': 'end'}, svg, value);
  }
  for (const p of [1e-4, 1e-3, .01, .1, 1]) draw('text', {class: 'small', x: x(p),
    y: plot.bottom + 17, 'text-anchor': p < 1 ? 'middle' : 'end'}, svg, p);
  draw('text', {x: (plot.left + plot.right) / 2, y: plot.bottom + 36, 'text-anchor': 'middle'},
    svg, 'sparsity p');
  draw('text', {x: 0, y: 11}, svg, 'specialization');
  for (const {color, trained, untrained} of curves) {
    const high = trained.map(([p, , , value]) => [p, value]), low = trained.map(([p, , value]) => [p, value]);
    draw('path', {class: 'band', fill: color, d: path([...high, ...low.reverse()])}, svg);
    draw('path', {class: 'untrained', stroke: color, d: path(untrained)}, svg);
    draw('path', {class: 'line', stroke: color, d: path(trained)}, svg);
  }
  const cursor = draw('g', {class: 'cursor'}, svg);
  draw('line', {y1: plot.top, y2: plot.bottom}, cursor);
  const dots = curves.map(({color}) => draw('circle', {r: 5, fill: color}, cursor));
  const legend = curves.map(({color}, m) => {
    draw('circle', {cx: 5 + 134 * m, cy: 27, r: 5, fill: color}, svg);
    return draw('text', {x: 14 + 134 * m, y: 31}, svg);
  });
  return p => {
    cursor.style.transform = `translateX(${x(p)}px)`;
    const said = curves.map(({label, trained}, m) => {
      const value = trained.find(point => point[0] === p)[1];
      dots[m].setAttribute('cy', y(value));
      return legend[m].textContent = `${label} ${value.toFixed(2)}`;
    });
    svg.setAttribute('aria-label', `Specialization at p = ${p}: ${said.join(', ')}`);
  };
}

// ---- the network

const RADIUS = 74, RIM = RADIUS + 8, CENTERS = [[84, 224], [316, 224]];
const place = (n, i) => {  // units in the pattern of a sunflower
  const r = RADIUS * Math.sqrt((i + .5) / N), angle = (i + .5) * Math.PI * (3 - Math.sqrt(5));
  return [CENTERS[n][0] + r * Math.cos(angle), CENTERS[n][1] + r * Math.sin(angle)];
};
const places = [0, 1].map(n => Array.from({length: N}, (_, i) => place(n, i)));
const BARS = {width: 15, low: 106, high: 40};

function drawNetwork(svg) {  // what stays, and what will change
  const parts = {units: [], bars: [], before: [], zero: [], says: [], image: [], shown: []};
  const columns = CENTERS.map(([cx, cy], n) => {
    draw('circle', {class: 'disc', cx, cy, r: RIM, fill: color(n)}, svg);
    draw('path', {class: 'axis', d: `M${cx},${cy - RIM}V${BARS.low + 20}M${cx},${cy + RIM}v14`}, svg);
    return cx;
  });
  parts.links = draw('g', {class: 'links', role: 'group', 'aria-label': 'links'}, svg);
  draw('rect', {y: CENTERS[0][1] - RIM, width: 400, height: 2 * RIM, fill: 'transparent'},
    parts.links);
  columns.forEach((cx, n) => {
    parts.units[n] = Array.from({length: N}, (_, i) => {
      const [ux, uy] = places[n][i];
      const paint = {fill: color(n), stroke: color(n), 'pointer-events': 'none'};
      return draw('circle', {class: 'unit', cx: ux, cy: uy, r: 2.8, ...paint}, svg);
    });
    const left = cx - BARS.width * CLASSES / 2;
    draw('text', {x: cx, y: 12, 'text-anchor': 'middle'}, svg, `sub-network ${n}`);
    parts.says[n] = draw('text', {x: cx, y: 29, 'text-anchor': 'middle'}, svg);
    parts.zero[n] = draw('path', {class: 'axis'}, svg);
    const bar = look => Array.from({length: CLASSES}, (_, c) =>
      draw('rect', {x: left + c * BARS.width + 1.5, width: BARS.width - 3, ...look}, svg));
    parts.bars[n] = bar({class: 'bar', fill: color(n)});
    parts.before[n] = bar({class: 'before'});
    for (let c = 0; c < CLASSES; c++) draw('text',
      {class: 'small', x: left + (c + .5) * BARS.width, y: BARS.low + 14, 'text-anchor': 'middle'}, svg, c);
    const frame = {x: cx - 36, y: CENTERS[n][1] + RIM + 15, width: 72, height: 72};
    parts.image[n] = draw('image', frame, svg);
    draw('rect', {class: 'axis', ...frame}, svg);
    parts.shown[n] = draw('text', {x: cx, y: frame.y + 88, 'text-anchor': 'middle'}, svg);
  });
  return parts;
}

function pictureOf(index) {  // an image as an address
  const canvas = document.createElement('canvas'), side = Math.sqrt(PIXELS);
  canvas.width = canvas.height = side;
  const context = canvas.getContext('2d'), shades = context.createImageData(side, side);
  shades.data.fill(255);
  pixels(index).forEach((ink, at) => shades.data.fill(255 - ink, 4 * at, 4 * at + 3));
  context.putImageData(shades, 0, 0);
  return canvas.toDataURL();
}

function drawWeak(net) {  // what is not among the strongest, both directions in turn
  const context = find('canvas').getContext('2d'), style = getComputedStyle(root);
  const colors = [0, 1].map(n => style.getPropertyValue(`--sub${n}`));
  context.setTransform(2, 0, 0, 2, 0, 0);
  context.clearRect(0, 0, 400, 424);
  context.globalAlpha = Math.min(.5, 4 / Math.sqrt(net.count));
  context.lineWidth = .4;
  for (let rank = SHOWN; rank < net.count; rank++) for (const links of net.links) {
    const {at, to, from, i, j} = links[rank];
    if (state.silent.has(at)) continue;
    context.strokeStyle = colors[from];
    context.beginPath();
    context.moveTo(...places[from][j]);
    context.lineTo(...places[to][i]);
    context.stroke();
  }
}

function drawLinks(net) {  // the strongest in each direction, as lines that can be chosen
  parts.links.querySelectorAll('.link').forEach(line => line.remove());
  const strongest = Math.max(...net.links.flat().map(({weight}) => Math.abs(weight)));
  lines = net.links.flatMap(links => links.slice(0, SHOWN)).map(link => {
    const [x1, y1] = places[link.from][link.j], [x2, y2] = places[link.to][link.i];
    const line = draw('line', {class: 'link', x1, y1, x2, y2, stroke: color(link.from), tabindex: -1,
      role: 'button', 'aria-label': `Silence link ${inWords(link)}`,
      'stroke-width': (.7 + 1.8 * Math.abs(link.weight) / strongest).toFixed(2)}, parts.links);
    return {line, link, ends: [x1, y1, x2, y2]};
  });
  lines[0].line.setAttribute('tabindex', 0);
}

const inWords = ({to, from, i, j, weight}) =>
  `${from} → ${to}, from unit ${j} to unit ${i}, weight ${weight.toFixed(2)}`;

function distance(px, py, [x1, y1, x2, y2]) {  // of a point from a piece of a line
  const dx = x2 - x1, dy = y2 - y1;
  const t = Math.min(1, Math.max(0, ((px - x1) * dx + (py - y1) * dy) / (dx * dx + dy * dy)));
  return Math.hypot(px - x1 - t * dx, py - y1 - t * dy);
}

function nearest(event) {  // the link under the pointer, or none
  const box = parts.links.ownerSVGElement.getBoundingClientRect(), scale = 400 / box.width;
  const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
  const far = lines.map(({ends}) => distance(px, py, ends)), least = Math.min(...far);
  return least < 10 * scale ? lines[far.indexOf(least)] : null;
}

// ---- what is shown, and what changes it

const state = {silent: new Set()};  // and `k`, the network, `pair`, `at`, its number
const showCurves = drawCurves(find('.curves')), parts = drawNetwork(find('.network'));
let lines = [], hint, working;

function show() {  // everything that depends on the pair and on what is silent
  const net = network(state.k), links = heard(net, state.silent);
  const now = respond(net, links, state.pair), whole = respond(net, heard(net), state.pair);
  const drawn = [...now.readouts, ...whole.readouts].flat().concat(0);
  const [low, high] = [Math.min(...drawn), Math.max(...drawn)];
  const level = value => BARS.low - (BARS.low - BARS.high) * (value - low) / (high - low);
  now.readouts.forEach((r, n) => {
    for (const [rects, values] of [[parts.bars[n], r], [parts.before[n], whole.readouts[n]]])
      rects.forEach((rect, c) => {
        rect.setAttribute('y', level(Math.max(values[c], 0)));
        rect.setAttribute('height', Math.abs(level(values[c]) - level(0)));
      });
    parts.bars[n].forEach((rect, c) => rect.classList.toggle('largest', c === now.says[n]));
    parts.zero[n].setAttribute('d', `M${CENTERS[n][0] - 75},${level(0)}h150`);
    parts.says[n].textContent = `says ${now.says[n]}${n === now.decider ? ', and decides' : ''}`;
    parts.says[n].classList.toggle('decides', n === now.decider);
    now.states[n].forEach((h, i) => {
      parts.units[n][i].style.fillOpacity = Math.max(h, 0);
      parts.units[n][i].style.strokeOpacity = .2 + .8 * Math.abs(h);
    });
    parts.image[n].setAttribute('href', pictureOf(state.pair[n]));
    parts.shown[n].textContent = `digit ${n}: ${labels[state.pair[n]]}`;
  });
  lines.forEach(({line, link}) => line.setAttribute('aria-pressed', state.silent.has(link.at)));
  find('.verdict').textContent = verdict(now, whole);
  find('.verdict').dataset.images = state.pair;
  showControls(net);
  showAccuracy(net, links);
}

function verdict(now, whole) {
  const [a, b] = state.pair.map(index => labels[index]), target = asked(state.pair);
  const question = (a + b) % 2 ? `One digit is even, the other odd: digit 0 is asked for, the ${target}.`
    : `Both digits are ${a % 2 ? 'odd' : 'even'}: digit 1 is asked for, the ${target}.`;
  const judged = now.answer === target ? 'right' : 'wrong';
  const before = now.answer === whole.answer ? '' : ` With every link it would be ${whole.answer}.`;
  const says = `Sub-network ${now.decider} has the largest read-out and answers ${now.answer}`;
  return `${question} ${says}: ${judged}.${before}`;
}

function showControls(net) {
  const [a, b] = state.pair.map(index => labels[index]);
  root.querySelectorAll('select').forEach((select, n) => {
    select.value = [a, b][n];
    for (const option of select.options) option.disabled =
      !(n ? allowed(a, +option.value) : allowed(+option.value, b));
  });
  root.querySelectorAll('[data-direction]').forEach(button => button.setAttribute('aria-pressed',
    net.links[button.dataset.direction].every(({at}) => state.silent.has(at))));
  const count = state.silent.size;
  find('[data-do=restore]').disabled = !count;
  const few = net.count > SHOWN ? `of the ${SHOWN} strongest each way` : 'in the picture';
  hint = count ? `${count === 1 ? 'One link is' : `${count.toLocaleString('en')} links are`} silent.`
    : `Or click one ${few}.`;
  find('.hint').textContent = hint;
}

async function showAccuracy(net, links) {  // beside all else, until something changes
  const mine = working = {}, line = find('.right');
  const share = async some => {
    for (const count = counted(net, some); ;) {
      await new Promise(resume => setTimeout(resume));
      const {done, value} = working === mine ? count.next() : {done: true};
      if (done) return value;
    }
  };
  const said = value => `${(100 * value).toFixed(0)}\u00a0%`;
  line.textContent = `Right on ${pairs.length} held-out pairs: …`;
  net.right ??= await share(heard(net));
  const now = state.silent.size ? await share(links) : net.right;
  if (working !== mine) return;
  line.textContent = `Right on ${pairs.length} held-out pairs: ${said(now)}${
    state.silent.size ? ` (with every link ${said(net.right)})` : ''}.`;
}

function choose(k) {  // another network
  const net = network(k), q = (1 - net.sparsity) / (2 * (1 + net.sparsity));
  state.k = k;
  state.silent.clear();
  drawWeak(net);
  drawLinks(net);
  showCurves(net.sparsity);
  const count = `${net.count.toLocaleString('en')} link${net.count > 1 ? 's' : ''} each way`;
  const where = `p = ${net.sparsity}: ${count}, Q = ${q.toFixed(3)}`;
  find('.where').textContent = where;
  find('input').value = k;
  find('input').setAttribute('aria-valuetext', where);
  show();
}

function point(here) {  // at a link, or at none
  lines.forEach(each => each.line.classList.toggle('near', each === here));
  find('.hint').textContent = here ? `Link ${inWords(here.link)}.` : hint;
}

function toggle(at, on = !state.silent.has(at)) {
  state.silent[on ? 'add' : 'delete'](at);
}

find('input').addEventListener('input', event => choose(+event.target.value));
find('[data-do=next]').addEventListener('click', () => {
  state.at = (state.at + 1) % pairs.length;
  state.pair = pairs[state.at];
  show();
});
root.querySelectorAll('select').forEach((select, n) => select.addEventListener('change', () => {
  const from = state.pair[n] + 1, order = labels.map((_, i) => (from + i) % labels.length);
  const chosen = order.find(i => labels[i] === +select.value);
  state.pair = state.pair.map((image, m) => m === n ? chosen : image);
  show();
}));
root.querySelectorAll('[data-direction]').forEach(button => button.addEventListener('click', () => {
  const on = button.getAttribute('aria-pressed') !== 'true';
  network(state.k).links[button.dataset.direction].forEach(({at}) => toggle(at, on));
  drawWeak(network(state.k));
  show();
}));
find('[data-do=restore]').addEventListener('click', () => {
  state.silent.clear();
  drawWeak(network(state.k));
  show();
});

parts.links.addEventListener('pointermove', event => point(nearest(event)));
parts.links.addEventListener('pointerleave', () => point(null));
parts.links.addEventListener('click', event => {
  const here = nearest(event);
  if (here) { toggle(here.link.at); show(); }
});
parts.links.addEventListener('keydown', event => {
  const now = lines.findIndex(({line}) => line === document.activeElement);
  const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  if (now < 0 || !(step || event.key === 'Enter' || event.key === ' ')) return;
  event.preventDefault();
  if (!step) { toggle(lines[now].link.at); show(); return; }
  const next = lines[(now + step + lines.length) % lines.length].line;
  lines.forEach(({line}) => line.setAttribute('tabindex', line === next ? 0 : -1));
  next.focus();
});

const start = networks.findIndex(({sparsity}) => sparsity === .01);
state.at = pairs.findIndex(pair => modspecLive.compute(start, pair).answer === asked(pair));
state.pair = pairs[state.at];
choose(start);
})();
