// The authorization server: the certified oidc-provider, with the token endpoint (RFC 6749), introspection
// (RFC 7662) and revocation (RFC 7009), and with a login and consent page for browsers. Refresh tokens can be
// used once, and a second use ends the grant.
import { createPublicKey } from 'node:crypto';
import http from 'node:http';

import Provider from 'oidc-provider';

const TOKEN_LIFETIME = 600;

/** An OAuth client that authenticates with HTTP Basic, with form-encoded id and secret (RFC 6749 section 2.3.1). */
export class Client {
  constructor(id, secret) {
    this.id = id;
    this.secret = secret;
  }

  get credentials() {
    const encoded = [this.id, this.secret].map((part) => new URLSearchParams({ '': part }).toString().slice(1));
    return Buffer.from(encoded.join(':')).toString('base64');
  }
}

/** An OAuth client that signs JWTs, with its private key (RFC 7523 section 2.2). */
export class SigningClient {
  constructor(id, algorithm, privateKey) {
    this.id = id;
    this.algorithm = algorithm;
    this.publicKey = { ...createPublicKey(privateKey).export({ format: 'jwk' }), kid: id, use: 'sig', alg: algorithm };
  }
}

export class AuthorizationServer {
  /** All access tokens that were issued. */
  issued = [];
  /** All refresh tokens and codes that were issued. */
  handedOut = [];
  /** How many refresh tokens were used. */
  rotations = 0;
  /** How many grants have ended. */
  revokedGrants = 0;
  /** The lifetime of a person's tokens, in seconds. */
  personsLifetime = 3;
  /** The number of token requests, whatever their outcome. */
  tokenRequests = 0;

  /** `client` and the others get tokens; `resourceServer` introspects and revokes them. */
  static async start(client, signing, resourceServer) {
    const self = new AuthorizationServer();
    const server = http.createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    self.issuer = `http://127.0.0.1:${server.address().port}`;
    self.resourceServer = resourceServer;

    const provider = new Provider(self.issuer, {
      clients: [
        { ...registration(client), grant_types: ['client_credentials'] },
        {
          ...registration(client),
          client_id: `${client.id}-jwt`,
          token_endpoint_auth_method: 'client_secret_jwt',
          grant_types: ['client_credentials'],
        },
        ...signing.map(({ id, algorithm, publicKey }) => ({
          client_id: id,
          token_endpoint_auth_method: 'private_key_jwt',
          token_endpoint_auth_signing_alg: algorithm,
          jwks: { keys: [publicKey] },
          grant_types: ['client_credentials'],
          redirect_uris: [],
          response_types: [],
        })),
        { ...registration(resourceServer), grant_types: [] },
        { ...forPersons('persons-gateway'), token_endpoint_auth_method: 'none' },
        {
          ...forPersons('members-gateway'),
          client_secret: client.secret,
          token_endpoint_auth_method: 'client_secret_basic',
        },
      ],
      rotateRefreshToken: true,
      // A refresh token with the scope for it, as the standard says, or always, as many servers do for native applications.
      issueRefreshToken: (ctx, { clientId }, { scopes }) =>
        scopes.has('offline_access') || clientId === 'persons-gateway',
      features: {
        clientCredentials: { enabled: true },
        introspection: { enabled: true },
        // A client may revoke only its own tokens; here the resource server acts as the operator.
        revocation: { enabled: true, allowedPolicy: () => true },
        devInteractions: { enabled: true },
      },
      ttl: { ClientCredentials: TOKEN_LIFETIME, AccessToken: () => self.personsLifetime },
    });
    self.provider = provider;
    provider.on('grant.success', (ctx) => {
      self.issued.push(ctx.body.access_token);
      if (ctx.body.refresh_token) self.handedOut.push(ctx.body.refresh_token);
    });
    provider.on('authorization.success', (ctx, { code }) => self.handedOut.push(code));
    provider.on('refresh_token.consumed', () => (self.rotations += 1));
    provider.on('grant.revoked', () => (self.revokedGrants += 1));
    provider.on('server_error', (ctx, error) => console.error('authorization server:', error));
    provider.on('grant.error', (ctx, error) => console.error('authorization server:', error.message));

    const answer = provider.callback();
    server.on('request', (request, response) => {
      if (request.url === '/token') self.tokenRequests += 1;
      answer(request, response);
    });
    return self;
  }

  async isActive(token) {
    const response = await this.#ask('/token/introspection', token);
    return (await response.json()).active === true;
  }

  /** Revokes one token. The revocation endpoint with its simple storage would end the whole grant. */
  async revoke(token) {
    const persons = await this.provider.AccessToken.find(token);
    if (persons) await persons.destroy();
    else await this.#ask('/token/revocation', token);
  }

  async #ask(path, token) {
    const response = await fetch(this.issuer + path, {
      method: 'POST',
      headers: { authorization: `Basic ${this.resourceServer.credentials}` },
      body: new URLSearchParams({ token }),
    });
    if (!response.ok) throw new Error(`${path} answered ${response.status}: ${await response.text()}`);
    return response;
  }
}

/** A native application, whose redirect address is any port of loopback (RFC 8252 section 7.3). */
function forPersons(id) {
  return {
    client_id: id,
    application_type: 'native',
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: ['http://127.0.0.1/callback'],
  };
}

function registration(client) {
  return {
    client_id: client.id,
    client_secret: client.secret,
    token_endpoint_auth_method: 'client_secret_basic',
    redirect_uris: [],
    response_types: [],
  };
}
