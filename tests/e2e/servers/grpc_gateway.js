// The gateway of the gRPC API: a call without an active token gets HTTP status 401, and every other call reaches the
// gRPC server.
import { once } from 'node:events';
import http2 from 'node:http2';

export class GrpcGateway {
  /** Calls with a live token. */
  accepted = 0;
  /** Calls that were answered with a 401. */
  rejected = 0;

  /** `server` is the address of the gRPC server. */
  static async start(server, authorizationServer) {
    const self = new GrpcGateway();
    const upstream = http2.connect(server);
    await once(upstream, 'connect');
    const gateway = http2.createServer();
    gateway.on('stream', async (stream, headers) => {
      stream.on('error', (error) => console.error('gRPC gateway:', error.message));
      const token = /^Bearer (\S+)$/.exec(headers.authorization)?.[1];
      if (token !== undefined && (await authorizationServer.isActive(token))) {
        self.accepted += 1;
        return forward(stream, headers, upstream);
      }
      self.rejected += 1;
      stream.respond({ ':status': 401, 'www-authenticate': 'Bearer error="invalid_token"' }, { endStream: true });
    });
    gateway.listen(0, '127.0.0.1');
    await once(gateway, 'listening');
    self.url = `http://127.0.0.1:${gateway.address().port}`;
    return self;
  }
}

/** Messages both ways, and the trailers. */
function forward(stream, headers, upstream) {
  const call = upstream.request(headers, { endStream: false });
  let trailers = {};
  call.on('error', () => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR));
  call.on('response', (response, flags) => {
    const endStream = (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    stream.respond(response, endStream ? { endStream } : { waitForTrailers: true });
    if (!endStream) call.pipe(stream);
  });
  call.on('trailers', (fields) => (trailers = fields));
  stream.on('wantTrailers', () => stream.sendTrailers(trailers));
  stream.pipe(call);
}
