// The upstream: a TLS server with the routing queues of the Genesys Cloud Platform API, and an echo.
//
// The API introspects the token of every request, so that a revoked token is rejected at once, and records everything
// that a correct proxy would not send.
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import https from 'node:https';

const QUEUES = '/api/v2/routing/queues';

export class Api {
  /** Requests with a live token. */
  accepted = 0;
  /** Requests that were answered with a 401. */
  rejected = 0;
  /** Violations. */
  violations = [];

  #queues = ['Billing', 'Claims', 'Escalation', 'Overflow', 'Sales', 'Support', 'Vacation'].map(queue);
  #gate = new Gate();
  #throttled = 0;

  static async start(tls, authorizationServer) {
    const self = new Api();
    self.authorizationServer = authorizationServer;
    const server = https.createServer(tls, (request, response) => {
      self.#answer(request, response).catch((error) => {
        self.violations.push(`${request.method} ${request.url} broke off: ${error.message}`);
        response.destroy();
      });
    });
    // These tests do not cover connections that close while a request arrives.
    server.keepAliveTimeout = 60_000;
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    self.host = `localhost:${server.address().port}`;
    return self;
  }

  /** Requests are answered once this many have arrived. */
  hold(requests) {
    this.#gate.close(requests);
  }

  /** That many further requests with a live token are answered with a 429. */
  throttle(requests) {
    this.#throttled = requests;
  }

  async #answer(request, response) {
    const url = new URL(request.url, `https://${this.host}`);
    this.#inspect(request);
    // A health check or a preflight, which APIs answer whatever the token; none of the counts has it.
    if (request.method === 'OPTIONS') return response.writeHead(204, { Allow: 'GET, POST, OPTIONS' }).end();
    await this.#gate.pass();

    // Like many gateways, the API rejects a request before it reads the body, unless the request says otherwise.
    let body = url.searchParams.has('read_first') ? await read(request) : undefined;
    const token = bearerTokens(request)[0];
    if (token === undefined || !(await this.authorizationServer.isActive(token))) {
      this.rejected += 1;
      const challenge = { 'WWW-Authenticate': 'Bearer error="invalid_token"' };
      const problem = { status: 401, code: 'bad.credentials', message: 'Invalid login credentials.' };
      return json(response, 401, problem, challenge);
    }
    this.accepted += 1;
    if (this.#throttled > 0) {
      this.#throttled -= 1;
      const problem = { status: 429, code: 'too.many.requests', message: 'Rate limit exceeded.' };
      return json(response, 429, problem, { 'Retry-After': '1' });
    }

    body ??= await read(request);
    const route = `${request.method} ${url.pathname}`;
    if (route === `GET ${QUEUES}`) return json(response, 200, this.#page(url.searchParams));
    if (route === `POST ${QUEUES}`) return json(response, 200, this.#create(JSON.parse(body)));
    if (route === 'POST /echo') return echo(response, body);
    json(response, 404, { status: 404, code: 'not.found', message: `${route} is not here.` });
  }

  /** Records the violations of a request. */
  #inspect(request) {
    const authorizations = fields(request, 'authorization');
    if (authorizations.length !== 1 || bearerTokens(request).length !== 1) {
      this.violations.push(`${request.method} ${request.url}: Authorization is ${JSON.stringify(authorizations)}`);
    }
    const hosts = fields(request, 'host');
    if (hosts.length !== 1 || hosts[0] !== this.host) {
      this.violations.push(`${request.method} ${request.url}: Host is ${JSON.stringify(hosts)}`);
    }
  }

  #page(parameters) {
    const pageSize = Number(parameters.get('pageSize') ?? 25);
    const pageNumber = Number(parameters.get('pageNumber') ?? 1);
    const pageCount = Math.ceil(this.#queues.length / pageSize);
    const uri = (number) => `${QUEUES}?pageSize=${pageSize}&pageNumber=${number}`;
    return {
      entities: this.#queues.slice((pageNumber - 1) * pageSize, pageNumber * pageSize),
      pageSize,
      pageNumber,
      pageCount,
      total: this.#queues.length,
      firstUri: uri(1),
      selfUri: uri(pageNumber),
      lastUri: uri(pageCount),
      ...(pageNumber > 1 && { previousUri: uri(pageNumber - 1) }),
      ...(pageNumber < pageCount && { nextUri: uri(pageNumber + 1) }),
    };
  }

  #create({ name }) {
    const created = queue(name);
    this.#queues.push(created);
    return created;
  }
}

/** Holds requests back until enough have arrived. */
class Gate {
  #size = 0;
  #waiting = [];

  close(size) {
    this.#size = size;
  }

  pass() {
    if (this.#size === 0) return undefined;
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      if (this.#waiting.length < this.#size) return;
      this.#size = 0;
      for (const go of this.#waiting.splice(0)) go();
    });
  }
}

function queue(name) {
  const id = randomUUID();
  return { id, name, memberCount: 0, dateCreated: new Date().toISOString(), selfUri: `${QUEUES}/${id}` };
}

/** The values of all fields of that name; Node would join or drop repeated ones. */
function fields(request, name) {
  return request.rawHeaders.filter((_, index, raw) => index % 2 === 1 && raw[index - 1].toLowerCase() === name);
}

/** RFC 6750 section 2.1. */
function bearerTokens(request) {
  return fields(request, 'authorization').flatMap((value) => /^Bearer ([A-Za-z0-9._~+/-]+=*)$/.exec(value)?.[1] ?? []);
}

async function read(request) {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  await once(request, 'end');
  return Buffer.concat(chunks);
}

/** A body in chunks. */
function echo(response, body) {
  response.writeHead(200, { 'Content-Type': 'application/octet-stream' }).end(body);
}

/** A body with Content-Length. */
function json(response, status, value, fields = {}) {
  const body = Buffer.from(JSON.stringify(value));
  const framing = { 'Content-Type': 'application/json', 'Content-Length': body.length };
  response.writeHead(status, { ...framing, ...fields }).end(body);
}
