// Owns: the HTTP door of the figures: /metrics for Prometheus, /healthz (this process answers) and /readyz (documents can be issued).
// Invariants: listens on loopback alone (the configuration refuses all else) and answers only to a loopback name, so that no page of a browser reaches it
// under a name of its own; reads only; bounded in connections, headers and time. It tells how a shop sells to every user of this machine: off by default.
// Must not: know what is told.
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { type Log, whyOf } from '#ground/log.ts';
import { expositionType } from './exposition.ts';

/** Not by `import`, which reads every export of it: the getter of one loads Node's WebSocket client, 23 ms of a start and 3 MB that nobody uses (docs/performance.md). */
const { createServer } = process.getBuiltinModule('node:http');

export interface Readiness {
  readonly ready: boolean;
  /** One line for each token. */
  readonly text: string;
}

export interface DoorParts {
  readonly log: Log;
  text(): Promise<string>;
  readiness(): Readiness;
}

export interface Door {
  /** As it was bound: where the port was 0, another. */
  readonly port: number;
  close(): Promise<void>;
}

const maxConnections = 16;
const maxHeaderBytes = 4_096;
const requestWaitMs = 5_000;
const plainType = 'text/plain; charset=utf-8';
const loopbackHost = /^(localhost|127(?:\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/;

interface Page {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

const page = (status: number, body: string, type = plainType): Page => ({ status, type, body });

/** Rejects when the address is taken. */
export async function openDoor(parts: DoorParts, address: { readonly host: string; readonly port: number }): Promise<Door> {
  const options = {
    maxHeaderSize: maxHeaderBytes,
    headersTimeout: requestWaitMs,
    requestTimeout: requestWaitMs,
    connectionsCheckingInterval: requestWaitMs,
    keepAliveTimeout: requestWaitMs,
  };
  const server = createServer(options, (request, response) => {
    answer(parts, request).then(
      (told) => send(response, request.method === 'HEAD', told),
      (error: unknown) => {
        parts.log.warn('the figures could not be told', { why: whyOf(error) });
        send(response, false, page(500, 'a fault\n'));
      },
    );
  });
  server.maxConnections = maxConnections;
  await listening(server, address);
  server.on('error', (error) => parts.log.warn('the door of the figures failed', { why: whyOf(error) }));
  const bound = server.address();
  return { port: typeof bound === 'object' && bound !== null ? bound.port : address.port, close: () => closed(server) };
}

async function answer(parts: DoorParts, request: IncomingMessage): Promise<Page> {
  if (!loopbackHost.test(request.headers.host ?? '')) return page(403, 'ask for a loopback address\n');
  if (request.method !== 'GET' && request.method !== 'HEAD') return page(405, 'only GET\n');
  switch (request.url) {
    case '/metrics':
      return page(200, await parts.text(), expositionType);
    case '/healthz':
      return page(200, 'alive\n');
    case '/readyz': {
      const { ready, text } = parts.readiness();
      return page(ready ? 200 : 503, text);
    }
    default:
      return page(404, '/metrics, /healthz or /readyz\n');
  }
}

function send(response: ServerResponse, isHead: boolean, { status, type, body }: Page): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(isHead ? undefined : body);
}

async function listening(server: Server, { host, port }: { readonly host: string; readonly port: number }): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

async function closed(server: Server): Promise<void> {
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
