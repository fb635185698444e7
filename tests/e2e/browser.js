// A browser and its user: opens an address, follows redirects, keeps cookies, and submits forms until a page has none;
// prints that page: node browser.js ADDRESS
const MOST_PAGES = 20;

const cookies = new Map(); // by origin, name and value

function cookiesFor(url) {
  const all = cookies.get(url.origin) ?? new Map();
  return [...all].map(([name, value]) => `${name}=${value}`).join('; ');
}

function keepCookies(url, response) {
  const all = cookies.get(url.origin) ?? new Map();
  for (const field of response.headers.getSetCookie()) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(field);
    if (/expires=Thu, 01 Jan 1970/i.test(field)) all.delete(name);
    else all.set(name, value);
  }
  cookies.set(url.origin, all);
}

/** The text for every field, such as a name or a password. */
function fillIn(form) {
  const inputs = [...form.matchAll(/<input\b[^>]*>/g)].map(([input]) => ({
    name: /\bname="([^"]*)"/.exec(input)?.[1],
    value: /\bvalue="([^"]*)"/.exec(input)?.[1] ?? 'somebody',
  }));
  return new URLSearchParams(inputs.filter(({ name }) => name).map(({ name, value }) => [name, value]));
}

let url = new URL(process.argv[2]);
let body;
for (let pages = 0; ; pages += 1) {
  if (pages === MOST_PAGES) throw new Error(`no end at ${url.origin}${url.pathname}`);
  const method = body === undefined ? 'GET' : 'POST';
  const response = await fetch(url, { method, body, redirect: 'manual', headers: { cookie: cookiesFor(url) } });
  keepCookies(url, response);
  const page = await response.text();
  body = undefined;
  if (response.status >= 300 && response.status < 400) {
    url = new URL(response.headers.get('location'), url);
    continue;
  }
  if (response.status !== 200) throw new Error(`${url.origin}${url.pathname} answered ${response.status}: ${page}`);
  const form = /<form\b[\s\S]*?<\/form>/.exec(page)?.[0];
  if (form === undefined) {
    console.log(page);
    break;
  }
  url = new URL(/\baction="([^"]*)"/.exec(form)[1], url);
  body = fillIn(form);
}
