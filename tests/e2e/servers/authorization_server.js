// The authorization server: the certified oidc-provider, with the token endpoint (RFC 6749), introspection
// (RFC 7662) and revocation (RFC 7009).
import { createPublicKey } from 'node:crypto';
import http from 'node:http';

import Provider from 'oidc-provider';

const TOKEN_LIFETIME = 600;

/** An OAuth client that authenticates with HTTP Basic, id and secret form-encoded first (RFC 6749 section 2.3.1). */
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
  /** Every access token it has issued. */
  issued = [];
  /** How often the token endpoint was asked, with whatever outcome. */
  tokenRequests = 0;

  /** `client` and the others get tokens; `resourceServer` asks about them and revokes them. */
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
      ],
      features: {
        clientCredentials: { enabled: true },
        introspection: { enabled: true },
        // A client may revoke its own tokens only; here the resource server plays the operator who revokes them.
        revocation: { enabled: true, allowedPolicy: () => true },
        devInteractions: { enabled: false },
      },
      ttl: { ClientCredentials: TOKEN_LIFETIME },
    });
    provider.on('grant.success', (ctx) => self.issued.push(ctx.body.access_token));
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

  async revoke(token) {
    await this.#ask('/token/revocation', token);
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

function registration(client) {
  return {
    client_id: client.id,
    client_secret: client.secret,
    token_endpoint_auth_method: 'client_secret_basic',
    redirect_uris: [],
    response_types: [],
  };
}
