// Owns: the HTTPS server: TLS, limits on connections, requests, bytes and time, and one answer to every request.
// Invariants: TLS 1.2 or later; a request's body is read only up to the limit of its path; at most maxRequests are worked on, and maxUploads of them uploads,
// others are told `busy` with Retry-After; bodies that only trickle in take nobody's place (upload-bodies.ts), nor do connections without a request that is
// worked on (connections.ts), nor answers that nobody reads (sending.ts); an answer never carries a stack. Listens on 127.0.0.1 by default: reads are open
// to whoever can connect (routes.ts), so listening elsewhere is for networks where that may be.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { UkeyError } from '#ipc-schema/errors.ts';
import { paths, requestHeader, uploadMaxBytes } from '#ipc-schema/upstream.ts';
import { type Connection, Connections } from './connections.ts';
import { duringRequest, faultText } from './log.ts';
import { refusalOf } from './refusal.ts';
import { discard, takeIn } from './request-body.ts';
import { type Answer, answerTo, type RouteParts, refusalAnswer } from './routes.ts';
import { Outgoing, type SendWaits } from './sending.ts';
import type { TlsIdentity } from './tls-identity.ts';
import { UploadBodies } from './upload-bodies.ts';

export const maxConnections = 512;
const maxRequests = 64;
/** Uploads that are worked on at a time: each holds its sealed and its unpacked bytes. */
export const maxUploads = 8;
const maxHeaderBytes = 8_192;
/** Compression and sealing never add more than this to a body. */
const sealedMaxBytes = uploadMaxBytes + 64 * 1024;
const enrolMaxBytes = 16 * 1024;
const maxRequestsPerSocket = 10_000;
/** Sealed bytes of all uploads, with what their pieces take (upload-bodies.ts). */
const uploadsMaxBytes = maxUploads * (sealedMaxBytes + 1024 * 1024);

/** Large answers on their way; each has some MiB at most (view.ts). */
const outgoingMaxBytes = 64 * 1024 * 1024;

export interface HttpWaits extends SendWaits {
  readonly handshakeMs: number;
  readonly headersMs: number;
  /** From the first byte of a request to the last of its body. */
  readonly requestMs: number;
  /** For the body of a request that is no upload, of which one packet or two hold all. */
  readonly smallBodyMs: number;
  /** A connection on which nothing moves. */
  readonly idleMs: number;
  readonly keepAliveMs: number;
  /** How long a refused body is still taken in, so that its sender gets to read the answer. */
  readonly lingerMs: number;
  /** How long `close` lets running requests end. */
  readonly closeMs: number;
}

export const defaultWaits: HttpWaits = {
  handshakeMs: 10_000,
  headersMs: 10_000,
  requestMs: 120_000,
  smallBodyMs: 5_000,
  idleMs: 60_000,
  keepAliveMs: 30_000,
  sendMs: 30_000,
  sendMebibyteMs: 256_000, // 4 KiB a second
  stillMs: 5_000,
  lingerMs: 2_000,
  closeMs: 5_000,
};

export interface HttpServer {
  readonly host: string;
  readonly port: number;
  renewTls(identity: TlsIdentity): void;
  /** No new requests; running ones end, then everything is cut. */
  close(): Promise<void>;
}

export async function listenHttps(
  parts: RouteParts,
  identity: TlsIdentity,
  listen: { readonly host: string; readonly port: number },
  waits: HttpWaits = defaultWaits,
): Promise<HttpServer> {
  const gate: Gate = {
    requests: 0,
    uploads: new UploadBodies(maxUploads, uploadsMaxBytes),
    outgoing: new Outgoing(outgoingMaxBytes, waits),
  };
  const connections = new Connections(maxConnections);
  const server = createServer(
    {
      ...identity,
      minVersion: 'TLSv1.2',
      handshakeTimeout: waits.handshakeMs,
      headersTimeout: waits.headersMs,
      requestTimeout: waits.requestMs,
      keepAliveTimeout: waits.keepAliveMs,
      connectionsCheckingInterval: Math.min(5_000, waits.headersMs),
      maxHeaderSize: maxHeaderBytes,
    },
    (request, response) => {
      const connection = connections.of(request.socket);
      if (connection === null) return;
      void duringRequest(request.headers[requestHeader], () =>
        serve(parts, gate, waits, connection, request, response).catch((thrown: unknown) => {
          // Only writing the answer can end here: the connection is of no more use.
          parts.log('warn', 'answer-lost', { why: faultText(thrown) });
          response.destroy();
        }),
      );
    },
  );
  server.maxRequestsPerSocket = maxRequestsPerSocket;
  server.setTimeout(waits.idleMs);
  server.on('connection', (socket) => connections.welcome(socket as Socket)); // of TCP: TLS comes over it
  server.on('tlsClientError', (fault) => parts.log('info', 'handshake-failed', { why: fault.message }));
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(listen.port, listen.host, resolve);
  });
  server.on('error', (fault) => parts.log('error', 'server-fault', { why: faultText(fault) }));
  const { address, port } = server.address() as AddressInfo;
  return {
    host: address,
    port,
    renewTls: (next) => server.setSecureContext({ ...next, minVersion: 'TLSv1.2' }),
    close: () => close(server, connections, waits),
  };
}

async function close(server: Server, connections: Connections, waits: HttpWaits): Promise<void> {
  await new Promise<void>((resolve) => {
    const cut = setTimeout(() => connections.cutAll(), waits.closeMs);
    server.close(() => {
      clearTimeout(cut);
      resolve();
    });
    server.closeIdleConnections();
  });
}

interface Gate {
  /** Whole requests that are worked on: one whose body is still on its way is none of them. */
  requests: number;
  readonly uploads: UploadBodies;
  readonly outgoing: Outgoing;
}

const busy = (): UkeyError => new UkeyError('busy', 'too many requests are being worked on');

async function serve(
  parts: RouteParts,
  gate: Gate,
  waits: HttpWaits,
  connection: Connection,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  connection.owesSinceMs = performance.now();
  try {
    const answer = await answerOrRefuse(parts, gate, waits, connection, request);
    if (answer !== null) await send(gate.outgoing, waits, connection, request, response, answer);
  } finally {
    connection.owesSinceMs = performance.now();
  }
}

/** Null: the client went away before its body was whole. */
async function answerOrRefuse(
  parts: RouteParts,
  gate: Gate,
  waits: HttpWaits,
  connection: Connection,
  request: IncomingMessage,
): Promise<Answer | null> {
  try {
    const isUpload = request.method === 'POST' && request.url === paths.batches;
    const body = await (isUpload ? readUpload(gate.uploads, request) : readSmall(request, waits));
    if (body === null) return null;
    try {
      if (gate.requests >= maxRequests) throw busy();
      return await work(parts, gate, connection, request, body.bytes);
    } finally {
      body.end();
    }
  } catch (thrown) {
    const refusal = refusalOf(thrown);
    if (refusal.code === 'internal') parts.log('error', 'request-fault', { why: faultText(thrown) });
    return refusalAnswer(refusal);
  }
}

async function work(parts: RouteParts, gate: Gate, connection: Connection, request: IncomingMessage, body: Uint8Array): Promise<Answer> {
  gate.requests++;
  connection.working++;
  try {
    const mediaType = (request.headers['content-type'] ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';
    return await answerTo(parts, { method: request.method ?? '', target: request.url ?? '', mediaType, body });
  } finally {
    gate.requests--;
    connection.working--;
    connection.owesSinceMs = performance.now();
  }
}

interface WholeBody {
  readonly bytes: Uint8Array;
  /** Its place and its memory are free again. */
  end(): void;
}

async function readUpload(uploads: UploadBodies, request: IncomingMessage): Promise<WholeBody | null> {
  if (uploads.isFull) throw busy(); // so that most are told before they have sent all
  const intake = takeIn(request, sealedMaxBytes, (bytes) => uploads.hold(upload, bytes));
  const upload = uploads.begin(() => intake.drop(busy()));
  let hasPlace = false;
  try {
    const bytes = await intake.whole;
    if (bytes === null) return null;
    hasPlace = uploads.takePlace(upload, bytes.length);
    if (!hasPlace) throw busy();
    return { bytes, end: () => uploads.end(upload) };
  } finally {
    if (!hasPlace) uploads.end(upload);
  }
}

async function readSmall(request: IncomingMessage, { smallBodyMs }: HttpWaits): Promise<WholeBody | null> {
  const { whole } = takeIn(request, request.method === 'POST' ? enrolMaxBytes : 0, null);
  const late = setTimeout(() => request.destroy(), smallBodyMs);
  const bytes = await whole.finally(() => clearTimeout(late));
  return bytes === null ? null : { bytes, end: () => undefined };
}

async function send(
  outgoing: Outgoing,
  waits: HttpWaits,
  connection: Connection,
  request: IncomingMessage,
  response: ServerResponse,
  wanted: Answer,
): Promise<void> {
  const answer = outgoing.hasRoom(Buffer.byteLength(wanted.body)) ? wanted : refusalAnswer(refusalOf(busy()));
  const body = typeof answer.body === 'string' ? Buffer.from(answer.body, 'utf8') : answer.body;
  // A body that was not read whole would be taken for the next request: such a connection ends with its answer.
  const isSpent = !request.complete;
  response.writeHead(answer.status, {
    'content-type': answer.mediaType,
    'content-length': body.length,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'",
    ...(isSpent ? { connection: 'close' } : {}),
    ...answer.headers,
  });
  if (isSpent) {
    // Ending now would reset the connection under a sender that is still writing, and the reset would overtake the answer.
    response.write(body);
    await discard(request, waits.lingerMs);
  }
  await outgoing.send(connection, response, isSpent ? body.subarray(body.length) : body);
}
