// Lists and creates queues with the Genesys Cloud SDK for JavaScript, which is configured with an address only, first
// without a login and then with one: node genesys_sdk.js PROXY_URL CONTROL_URL
//
// The token is revoked between two pages. An error of any kind ends this with a status that is not 0.
import assert from 'node:assert/strict';

import genesys from 'purecloud-platform-client-v2';

// The SDK rejects with whole exchanges or with the body of a response.
process.on('uncaughtException', (error) => {
  console.error(error?.stack ?? error);
  process.exit(1);
});

const [proxy, control] = process.argv.slice(2);

async function tell(path) {
  const response = await fetch(control + path, { method: 'POST' });
  assert.equal(response.status, 200);
}

/** The names of all queues; `between` is called after the first page. */
async function names(between = () => undefined) {
  const found = [];
  for (let number = 1, count = 1; number <= count; number += 1) {
    const page = await routing.getRoutingQueues({ pageSize: 3, pageNumber: number });
    assert.equal(page.pageNumber, number);
    assert.ok(page.pageCount >= 3, `${page.pageCount} pages`);
    found.push(...page.entities.map((queue) => queue.name));
    if (number === 1) await between();
    count = page.pageCount;
    if (number === count) assert.equal(found.length, page.total);
  }
  for (const name of ['Billing', 'Claims', 'Escalation', 'Overflow', 'Sales', 'Support', 'Vacation']) {
    assert.ok(found.includes(name), `${name} among ${found}`);
  }
  return found;
}

const { hostname, port } = new URL(proxy);
const client = genesys.ApiClient.instance;
client.setGateway({ host: hostname, protocol: 'http', port });
const routing = new genesys.RoutingApi();

// Without a login, and with a token that is revoked between two pages.
await names(() => tell('/revoke'));

// With a login, as in every example of the SDK. Neither the secret nor the token that it gets are worth anything.
const login = await client.loginClientCredentialsGrant('an-application', 'its-secret');
assert.equal(login.accessToken, 'bearerd-local');
assert.ok(login.tokenExpiryTime > Date.now() + 3_600_000, login.tokenExpiryTimeString);
const before = await names();

// The SDK does not retry by itself; the application learns of the 429 and how long to wait.
await tell('/throttle?requests=1');
client.setReturnExtendedResponses(true);
const refused = await routing.postRoutingQueues({ name: 'Night' }).then(assert.fail, (response) => response);
assert.equal(refused.status, 429);
assert.equal(refused.headers['retry-after'], '1');
assert.equal(refused.body.code, 'too.many.requests');
client.setReturnExtendedResponses(false);

// The throttled request created nothing.
const created = await routing.postRoutingQueues({ name: 'Night' });
assert.equal(created.name, 'Night');
assert.ok(created.id);
assert.deepEqual(await names(), [...before, 'Night']);
