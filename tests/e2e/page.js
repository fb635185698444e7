// The status page in Chromium: node page.js PATH_OF_BEARERD [FOLDER_FOR_SCREENSHOTS]
//
// A daemon has a credential in every state, and another daemon has a valid one alone. Each page is checked with axe-core,
// light and dark, wide and at 360 pixels, with scripting and without.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import puppeteer from 'puppeteer-core';

const [bearerd, shots] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const STEP_MS = 15_000;
const folder = mkdtempSync(join(tmpdir(), 'bearerd-page-'));
const daemons = [];
if (shots !== undefined) mkdirSync(shots, { recursive: true });

// ---- The peers

let issued = 0;
const isRefused = { degraded: false, valid: false };

/** Answers as the client of that name is to be answered. */
function answerToken(client, response) {
  const say = (status, body, fields = {}) => {
    response.writeHead(status, { 'content-type': 'application/json', ...fields });
    response.end(JSON.stringify(body));
  };
  const token = (more) =>
    say(200, { access_token: `token-${(issued += 1)}-of-the-test`, token_type: 'Bearer', expires_in: 3600, ...more });
  switch (client) {
    case 'acquiring':
      return; // Never.
    case 'throttled':
      return say(429, {}, { 'retry-after': '600' });
    case 'unusable':
      return say(401, { error: 'invalid_client', error_description: 'a <b>"bold"</b> & long reason' });
    case 'rotating':
      return token({ refresh_token: `refresh-${issued}-of-the-test`, scope: 'queues users' });
    default:
      return isRefused[client] ? say(500, { error: 'server_error' }) : token();
  }
}

async function listen(server) {
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return server.address().port;
}

const authorization = http.createServer((request, response) => {
  const basic = Buffer.from((request.headers.authorization ?? '').replace(/^Basic /, ''), 'base64').toString();
  request.resume().on('end', () => answerToken(basic.split(':')[0], response));
});
const api = http.createServer((request, response) => {
  request.resume().on('end', () => setTimeout(() => response.end('ok'), Math.random() * 8));
});
const [tokenPort, apiPort] = [await listen(authorization), await listen(api)];

// ---- The daemons

async function eventually(what, holds) {
  for (const end = Date.now() + STEP_MS; ; await new Promise((done) => setTimeout(done, 50))) {
    const value = await Promise.resolve(holds()).catch(() => undefined);
    if (value) return value;
    if (Date.now() > end) throw new Error(`did not happen: ${what}`);
  }
}

const POOL = `
[pools.several]
credentials = ["valid", "throttled"]
[[routes]]
path = "/several"
upstream = "http://127.0.0.1:${apiPort}"
credential = "several"
`;

function configuration(name, credentials) {
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', name === 'all' ? '5' : '90',
    '-subj', '/CN=proxy.example.test', '-addext', 'subjectAltName=DNS:proxy.example.test',
    '-keyout', join(folder, `${name}-key.pem`), '-out', join(folder, `${name}.pem`),
  ], { stdio: 'ignore' });
  const one = (credential) => `
[credentials.${credential}]
token_url = "http://127.0.0.1:${tokenPort}/token"
client_id = "${credential}"
client_secret = { env = "SECRET" }
timeout = "60s"
${credential === 'rotating' ? 'grant = "refresh_token"\nrefresh_token = { env = "REFRESH" }\nmax_rotations = 3\nstate_key = { env = "STATE_KEY" }' : ''}
[[routes]]
path = "/${credential}"
upstream = "http://127.0.0.1:${apiPort}"
credential = "${credential}"
`;
  return `
[server]
listen = "127.0.0.1:0"
state_dir = "${name}-state"
[server.limits]
token_wait = "100ms"
[server.tls]
certificate = "${name}.pem"
private_key = "${name}-key.pem"
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
${credentials.map(one).join('')}
${name === 'all' ? POOL : ''}
[[routes]]
path = "/down"
upstream = "http://127.0.0.1:1"
credential = "none"
`;
}

async function start(name, credentials) {
  writeFileSync(join(folder, `${name}.toml`), configuration(name, credentials));
  mkdirSync(join(folder, `${name}-state`), { mode: 0o700 });
  const environment = { ...process.env, STATE_KEY: Buffer.alloc(32, 7).toString('base64'), SECRET: 'a-secret-of-the-test', REFRESH: 'refresh-0-of-the-test', RUST_LOG: 'info' };
  const daemon = spawn(bearerd, ['run', '-c', join(folder, `${name}.toml`)], { env: environment });
  daemons.push(daemon);
  const output = [];
  for (const stream of [daemon.stdout, daemon.stderr]) stream.on('data', (data) => output.push(data.toString()));
  const address = (message) =>
    eventually(message, () => {
      const lines = output.join('').split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
      return lines.find((line) => line.message === message)?.address;
    }).catch((error) => {
      throw new Error(`${error.message}\n${output.join('')}`);
    });
  return { admin: `http://${await address('admin listening')}`, callers: await address('listening') };
}

function call(callers, path) {
  const [hostname, port] = callers.split(':');
  return new Promise((done) => {
    const options = { hostname, port, path, headers: { host: 'localhost' }, rejectUnauthorized: false };
    https.get(options, (response) => response.resume().on('end', done)).on('error', done);
  });
}

async function statusOf(admin) {
  return (await fetch(`${admin}/status`)).json();
}

function stateOf(status, name) {
  return status.credentials.find((one) => one.name === name)?.state;
}

// ---- The checks

let failures = 0;

async function check(what, run) {
  try {
    await run();
    console.log(`ok  ${what}`);
  } catch (error) {
    failures += 1;
    console.log(`FAILED  ${what}\n        ${String(error.stack ?? error).replaceAll('\n', '\n        ')}`);
  }
}

/** axe-core finds nothing; nothing is wider than the window; nothing was written to the console. */
async function examine(page, name) {
  if (shots !== undefined) await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
  const { violations } = await page.evaluate(`${axe}; axe.run(document, { resultTypes: ['violations'] })`);
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`).join('; ')}`);
  assert.deepEqual(found, [], name);
  const { inner, scroll } = await page.evaluate(() => ({
    inner: window.innerWidth,
    scroll: document.scrollingElement.scrollWidth,
  }));
  assert.ok(scroll <= inner, `${name}: ${scroll} pixels in a window of ${inner}`);
}

async function open(browser, url, { width, scheme, scripting = true }) {
  const page = await browser.newPage();
  page.complaints = [];
  page.on('console', (message) => {
    if (['error', 'warn'].includes(message.type())) page.complaints.push(message.text());
  });
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  await page.setJavaScriptEnabled(scripting);
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.goto(url, { waitUntil: 'load' });
  return page;
}

const WINDOWS = [
  { width: 1280, scheme: 'light' },
  { width: 1280, scheme: 'dark' },
  { width: 360, scheme: 'light' },
  { width: 360, scheme: 'dark' },
];

async function appearances(browser, url, name) {
  for (const window of WINDOWS) {
    const appearance = `${name}-${window.scheme}-${window.width}`;
    await check(`the page: ${appearance}`, async () => {
      const page = await open(browser, url, window);
      await examine(page, appearance);
      assert.deepEqual(page.complaints, []);
      await page.close();
    });
  }
}

async function main() {
  const browser = await puppeteer.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
  try {
    const valid = await start('valid', ['valid']);
    const all = await start('all', ['valid', 'degraded', 'unusable', 'acquiring', 'throttled', 'rotating']);
    const isReady = async ({ admin }, name, state) => stateOf(await statusOf(admin), name) === state;
    await eventually('a token', () => isReady(valid, 'valid', 'valid'));
    for (const name of ['valid', 'degraded', 'rotating']) await eventually(name, () => isReady(all, name, 'valid'));
    await eventually('a refusal', () => isReady(all, 'unusable', 'unusable'));
    await eventually('a 429', () => isReady(all, 'throttled', 'unusable'));
    isRefused.degraded = true;
    for (const name of ['degraded', 'rotating']) {
      await fetch(`${all.admin}/credentials/${name}/refresh`, { method: 'POST' });
    }
    for (let index = 0; index < 40; index += 1) {
      await Promise.all([call(all.callers, '/valid/x'), call(all.callers, '/several/x'), call(all.callers, '/down/x'), call(valid.callers, '/valid/x')]);
    }

    await appearances(browser, `${valid.admin}/`, 'valid');
    await appearances(browser, `${all.admin}/`, 'all');
    await appearances(browser, `${all.admin}/credentials/valid/refresh`, 'question');

    await check('the page names every state, and what to do', async () => {
      // A circuit breaker that has opened before may have closed by now.
      for (let index = 0; index < 40; index += 1) await call(all.callers, '/down/x');
      const page = await open(browser, `${all.admin}/`, { width: 1280, scheme: 'light' });
      const text = await page.evaluate(() => document.body.innerText);
      for (const words of ['acquiring', 'valid', 'degraded', 'unusable', 'client_rejected', 'token_endpoint_rate_limited',
        'What needs attention', 'What to do', 'needs a person', 'Check client_id', 'rotation_limit_near', 'upstream_unavailable', 'Retry-After', 'limit near', 'ends soon', 'open', 'ends in', 'several: throttled', 'no_token']) {
        assert.ok(text.includes(words), `${words}: ${text}`);
      }
      await page.close();
    });

    await check('without scripting, a refresh is asked for on a page of its own', async () => {
      const page = await open(browser, `${valid.admin}/`, { width: 1280, scheme: 'light', scripting: false });
      await Promise.all([page.waitForNavigation(), page.click('a[data-refresh="valid"]')]);
      assert.equal(await page.title(), 'Refresh valid · bearerd');
      await Promise.all([page.waitForNavigation(), page.click('button[type=submit]')]);
      const text = await page.$eval('main', (main) => main.textContent);
      assert.match(text, /New token: generation 2/);
      await Promise.all([page.waitForNavigation(), page.click('a.primary')]);
      assert.match(await page.$eval('h1', (title) => title.textContent), /is valid/);
      await page.close();
    });

    await check('with scripting, a dialog asks, shows the outcome, and the page goes on by itself', async () => {
      const page = await open(browser, `${valid.admin}/`, { width: 1280, scheme: 'light' });
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(() => document.activeElement.dataset.refresh), 'valid');
      await page.keyboard.press('Enter');
      await page.waitForSelector('dialog[open]');
      await examine(page, 'dialog');
      await page.keyboard.press('Escape');
      await page.waitForSelector('dialog:not([open])');
      assert.equal(await page.evaluate(() => document.activeElement.dataset.refresh), 'valid');
      await page.keyboard.press('Enter');
      await page.waitForSelector('dialog[open]');
      await page.click('#ask-go');
      await page.waitForSelector('dialog[data-outcome="good"]');
      assert.match(await page.$eval('#ask-outcome', (one) => one.textContent), /New token: generation 3/);
      await examine(page, 'dialog-outcome');
      await page.keyboard.press('Enter');
      await page.waitForFunction(() => /Generation3/.test(document.querySelector('.facts').textContent.replace(/\s/g, '')));

      isRefused.valid = true;
      const marked = await page.evaluateHandle(() => document.querySelector('h1'));
      await fetch(`${valid.admin}/credentials/valid/refresh`, { method: 'POST' });
      await page.waitForFunction(() => document.querySelector('h1').textContent.includes('degraded'), { timeout: STEP_MS });
      assert.ok(await page.evaluate((node) => node.isConnected, marked), 'the heading was not replaced');
      assert.deepEqual(page.complaints, []);
      await page.close();
    });

    await check('nothing but the page itself is loaded, and its policy is strict', async () => {
      const page = await browser.newPage();
      const loaded = new Set();
      page.on('request', (request) => loaded.add(new URL(request.url()).origin));
      const response = await page.goto(`${all.admin}/`, { waitUntil: 'load' });
      assert.deepEqual([...loaded], [all.admin]);
      assert.match(response.headers()['content-security-policy'], /^default-src 'none'; /);
      await page.close();
    });
  } finally {
    await browser.close();
  }
}

try {
  await main();
} catch (error) {
  failures += 1;
  console.log(`FAILED  ${error.stack}`);
} finally {
  for (const daemon of daemons) daemon.kill('SIGKILL');
  rmSync(folder, { recursive: true });
}
process.exit(failures === 0 ? 0 : 1);
