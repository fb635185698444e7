// Starts the servers on free loopback ports and prints a line with each address: node servers/main.js FOLDER GRPC_URL
//
// The folder has server.pem and server.key, the OAuth client's secret in client_secret, and the private keys of
// clients that sign JWTs in rsa.pem and ec.pem. The gRPC server behind the gRPC gateway is at GRPC_URL. At the control
// address the checks revoke the token and read counts; the answers are lines for a shell.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';

import { Api } from './api.js';
import { AuthorizationServer, Client, SigningClient } from './authorization_server.js';
import { GrpcGateway } from './grpc_gateway.js';

const [folder, grpcServer] = process.argv.slice(2);
const file = (name) => readFileSync(path.join(folder, name), 'utf8');

const client = new Client('legacy-gateway', file('client_secret').trimEnd());
const resourceServer = new Client('queues-api', randomBytes(16).toString('hex'));
const signing = [
  new SigningClient('rsa-gateway', 'RS256', file('rsa.pem')),
  new SigningClient('ec-gateway', 'ES256', file('ec.pem')),
];
const authorizationServer = await AuthorizationServer.start(client, signing, resourceServer);
const api = await Api.start({ cert: file('server.pem'), key: file('server.key') }, authorizationServer);
const grpcGateway = await GrpcGateway.start(grpcServer, authorizationServer);
const resourceServers = [api, grpcGateway];

let revocations = 0;
let tokenRequestsBefore = 0;

const controls = {
  // Revokes every token that was issued; the counts start again.
  'POST /revoke': async () => {
    await Promise.all(authorizationServer.issued.map((token) => authorizationServer.revoke(token)));
    revocations += 1;
    tokenRequestsBefore = authorizationServer.tokenRequests;
    for (const server of resourceServers) {
      server.accepted = 0;
      server.rejected = 0;
    }
    return 'revoked';
  },
  // The counts since the last revocation.
  'GET /counts': () => {
    const tokenRequests = authorizationServer.tokenRequests - tokenRequestsBefore;
    const sum = (count) => resourceServers.reduce((total, server) => total + server[count], 0);
    return `token_requests=${tokenRequests} rejected=${sum('rejected')} accepted=${sum('accepted')}`;
  },
  'GET /totals': () => `token_requests=${authorizationServer.tokenRequests} revocations=${revocations}`,
  // The state of refresh tokens.
  'GET /grants': () =>
    `rotations=${authorizationServer.rotations} revoked=${authorizationServer.revokedGrants}`,
  // Sets the lifetime of further tokens for persons' clients.
  'POST /lifetime': (parameters) => {
    authorizationServer.personsLifetime = Number(parameters.get('seconds'));
    return 'set';
  },
  'GET /violations': () => api.violations.join('\n'),
  // All secrets, in every encoding, that no log may have.
  'GET /secrets': () => {
    const secrets = [client.secret, ...authorizationServer.issued, ...authorizationServer.handedOut];
    return [client.credentials, ...secrets.flatMap(dresses)].join('\n');
  },
  // The API answers once that many requests have arrived.
  'POST /hold': (parameters) => {
    api.hold(Number(parameters.get('requests')));
    return 'holding';
  },
  // The API answers that many further requests with a 429.
  'POST /throttle': (parameters) => {
    api.throttle(Number(parameters.get('requests')));
    return 'throttling';
  },
};

const control = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://127.0.0.1');
  const action = controls[`${request.method} ${url.pathname}`];
  if (action === undefined) return response.writeHead(404).end();
  try {
    response.end(`${await action(url.searchParams)}\n`);
  } catch (error) {
    console.error('control:', error);
    response.writeHead(500).end(`${error.message}\n`);
  }
});

function dresses(secret) {
  const base64 = Buffer.from(secret).toString('base64').replace(/=+$/, '');
  const base64url = Buffer.from(secret).toString('base64url');
  return [secret, secret.slice(0, 12), new URLSearchParams({ '': secret }).toString().slice(1), base64, base64url];
}

control.listen(0, '127.0.0.1', () => {
  console.log(`issuer ${authorizationServer.issuer}`);
  console.log(`token_url ${authorizationServer.issuer}/token`);
  console.log(`api_url https://${api.host}`);
  console.log(`grpc_gateway_url ${grpcGateway.url}`);
  console.log(`control_url http://127.0.0.1:${control.address().port}`);
  console.log('ready');
});
