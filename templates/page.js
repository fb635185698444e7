// Keeps the page up to date by /events, and asks before a refresh without leaving the page.
'use strict';

const live = document.getElementById('live');
const connection = document.getElementById('connection');
const ask = document.getElementById('ask');
const title = document.getElementById('ask-title');
const text = document.getElementById('ask-text');
const outcome = document.getElementById('ask-outcome');
const go = document.getElementById('ask-go');
const close = document.getElementById('ask-close');

/** Changes only what differs, so that focus, selection and screen readers are left alone. */
function morph(from, to) {
  if (from.nodeType === Node.TEXT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  const before = [...from.childNodes];
  const after = [...to.childNodes];
  after.forEach((next, at) => {
    const old = before[at];
    if (old === undefined) from.append(next);
    else if (old.nodeType === next.nodeType && old.nodeName === next.nodeName && old.id === next.id) morph(old, next);
    else old.replaceWith(next);
  });
  before.slice(after.length).forEach((old) => old.remove());
}

let isRunning = false;
let isWanted = false;

async function update() {
  isWanted = true;
  if (isRunning || document.hidden) return;
  isRunning = true;
  while (isWanted) {
    isWanted = false;
    try {
      const response = await fetch('/', { headers: { accept: 'text/html' } });
      if (!response.ok) break;
      const page = new DOMParser().parseFromString(await response.text(), 'text/html');
      const next = page.getElementById('live');
      if (next === null) break;
      morph(live, next);
      document.title = page.title;
    } catch {
      break; // The events say when the daemon is back.
    }
  }
  isRunning = false;
}

const events = new EventSource('/events');
events.addEventListener('status', update);
events.addEventListener('open', () => show('live', 'Live'));
events.addEventListener('error', () => show('lost', 'Connecting…'));
document.addEventListener('visibilitychange', update);
setInterval(update, 15000); // Spans of time go on while nothing else changes.

function show(state, words) {
  connection.dataset.state = state;
  connection.textContent = words;
}

live.addEventListener('click', (event) => {
  const link = event.target.closest('a[data-refresh]');
  if (link === null || typeof ask.showModal !== 'function') return;
  event.preventDefault();
  ask.dataset.path = link.getAttribute('href');
  ask.dataset.outcome = '';
  title.textContent = `Refresh the token of ${link.dataset.refresh}?`;
  text.hidden = false;
  outcome.textContent = '';
  go.hidden = false;
  go.disabled = false;
  close.textContent = 'Cancel';
  ask.showModal();
});

go.addEventListener('click', async () => {
  go.disabled = true;
  ask.dataset.outcome = '';
  outcome.textContent = 'Requesting a token…';
  try {
    const response = await fetch(ask.dataset.path, { method: 'POST', headers: { accept: 'application/json' } });
    const { detail } = await response.json();
    ask.dataset.outcome = response.ok ? 'good' : 'bad';
    outcome.textContent = detail;
  } catch {
    ask.dataset.outcome = 'bad';
    outcome.textContent = 'The daemon did not answer.';
  }
  text.hidden = true;
  go.hidden = true;
  close.textContent = 'Close';
  close.focus();
  update();
});
