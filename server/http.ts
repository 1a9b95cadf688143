// Owns: the HTTPS server: TLS, limits on connections, requests, bytes and time, and one answer to every request.
// Invariants: TLS 1.2 or later; a request's body is read only up to the limit of its path; at most maxRequests are worked on and maxUploads held in
// memory, others are told `busy` with Retry-After; bodies that only trickle in take nobody's place, nor do connections without a request that is worked on
// (connections.ts); an answer never carries a stack. Listens on 127.0.0.1 by default: reads are open to whoever can connect (routes.ts), so listening
// elsewhere is for networks where that may be.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { UkeyError } from '#ipc-schema/errors.ts';
import { paths, requestHeader, uploadMaxBytes } from '#ipc-schema/upstream.ts';
import { type Connection, Connections } from './connections.ts';
import { duringRequest, faultText } from './log.ts';
import { refusalOf, refuse } from './refusal.ts';
import { type Answer, answerTo, type RouteParts, refusalAnswer } from './routes.ts';
import type { TlsIdentity } from './tls-identity.ts';

export const maxConnections = 512;
const maxRequests = 64;
/** Uploads in memory at a time: each holds its sealed and its unpacked bytes. */
export const maxUploads = 8;
const maxHeaderBytes = 8_192;
/** Compression and sealing never add more than this to a body. */
const sealedMaxBytes = uploadMaxBytes + 64 * 1024;
const enrolMaxBytes = 16 * 1024;
const maxRequestsPerSocket = 10_000;
/** An upload that arrives more slowly than this, after a while, gives its place to one that waits. */
const slowBytesPerSecond = 4_096;

export interface HttpWaits {
  readonly handshakeMs: number;
  readonly headersMs: number;
  /** From the first byte of a request to the last of its body. */
  readonly requestMs: number;
  /** For the body of a request that is no upload, of which one packet or two hold all. */
  readonly smallBodyMs: number;
  /** A connection on which nothing moves. */
  readonly idleMs: number;
  readonly keepAliveMs: number;
  /** How long an upload may be slow before it can be made to give way. */
  readonly slowMs: number;
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
  slowMs: 5_000,
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
  const gate: Gate = { requests: 0, uploads: new Set() };
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
  readonly uploads: Set<Upload>;
}

interface Upload {
  readonly request: IncomingMessage;
  readonly sinceMs: number;
  bytes: number;
}

/** A place among the uploads, or null: all are taken by such as arrive fast enough, or are whole. */
function takePlace({ uploads }: Gate, request: IncomingMessage, { slowMs }: HttpWaits): Upload | null {
  const nowMs = performance.now();
  if (uploads.size >= maxUploads) {
    const slow = [...uploads].find(
      (upload) =>
        !upload.request.complete &&
        nowMs - upload.sinceMs > slowMs &&
        upload.bytes < ((nowMs - upload.sinceMs) / 1_000) * slowBytesPerSecond,
    );
    if (slow === undefined) return null;
    uploads.delete(slow);
    slow.request.destroy();
  }
  const upload = { request, sinceMs: nowMs, bytes: 0 };
  uploads.add(upload);
  return upload;
}

const busy = (): Answer => refusalAnswer(refuse('busy', 'too many requests are being worked on'));

async function serve(
  parts: RouteParts,
  gate: Gate,
  waits: HttpWaits,
  connection: Connection,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  connection.owesSinceMs = performance.now();
  const isUpload = request.method === 'POST' && request.url === paths.batches;
  const upload = isUpload ? takePlace(gate, request, waits) : null;
  try {
    const answer = isUpload && upload === null ? busy() : await answerOrRefuse(parts, gate, waits, connection, request, upload);
    if (answer !== null) await send(waits, request, response, answer);
  } finally {
    if (upload !== null) gate.uploads.delete(upload);
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
  upload: Upload | null,
): Promise<Answer | null> {
  try {
    const maxBytes = upload === null ? enrolMaxBytes : sealedMaxBytes;
    const body = await readBody(request, request.method === 'POST' ? maxBytes : 0, waits, upload);
    if (body === null) return null;
    if (gate.requests >= maxRequests) return busy();
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
  } catch (thrown) {
    const refusal = refusalOf(thrown);
    if (refusal.code === 'internal') parts.log('error', 'request-fault', { why: faultText(thrown) });
    return refusalAnswer(refusal);
  }
}

async function readBody(
  request: IncomingMessage,
  maxBytes: number,
  { smallBodyMs }: HttpWaits,
  upload: Upload | null,
): Promise<Uint8Array | null> {
  const tooLarge = new UkeyError('too-large', `a body here has at most ${maxBytes} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge;
  const chunks: Buffer[] = [];
  let bytes = 0;
  const late = upload === null ? setTimeout(() => request.destroy(), smallBodyMs) : undefined;
  const body = new Promise<Uint8Array | null>((resolve, reject) => {
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (upload !== null) upload.bytes = bytes;
      if (bytes <= maxBytes) chunks.push(chunk);
      else {
        request.pause();
        reject(tooLarge);
      }
    });
    request.once('end', () => resolve(chunks.length === 1 ? (chunks[0] ?? new Uint8Array(0)) : Buffer.concat(chunks)));
    request.once('close', () => resolve(null)); // after `end` this changes nothing
    request.once('error', () => resolve(null));
  });
  return await body.finally(() => clearTimeout(late));
}

async function send(waits: HttpWaits, request: IncomingMessage, response: ServerResponse, answer: Answer): Promise<void> {
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
  await new Promise<void>((resolve) => {
    response.once('close', resolve);
    response.end(isSpent ? undefined : body, () => resolve());
  });
}

/** Takes in what is left of a body, for a while. */
async function discard(request: IncomingMessage, lingerMs: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const enough = setTimeout(resolve, lingerMs);
    request.once('close', () => {
      clearTimeout(enough);
      resolve();
    });
    request.removeAllListeners('data').resume();
  });
}
