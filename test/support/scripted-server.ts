// Owns: something that answers in the ticket server's place, with its TLS identity: passes on to the real server what a test does not script.
// Counts what it is asked.
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { paths } from '#ipc-schema/upstream.ts';
import { openAuthority } from '#server/authority.ts';
import type { RunningServer } from '#server/serve.ts';
import { openTlsIdentity } from '#server/tls-identity.ts';
import { HttpsClient } from '#test/support/server-rig.ts';

export interface Scripted {
  readonly status: number;
  readonly body?: Uint8Array | string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** null: passed on to the real server. */
export type Script = (body: Buffer, path: string) => Scripted | null | Promise<Scripted | null>;

export class ScriptedServer {
  onProbe: Script = () => null;
  onBatches: Script = () => null;
  probes = 0;
  uploads = 0;
  readonly #server: Server;
  readonly #real: HttpsClient;

  private constructor(identity: { readonly key: string; readonly cert: string }, real: HttpsClient) {
    this.#real = real;
    this.#server = createServer(identity, (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        this.#answer(request.url ?? '', request.headers['content-type'], Buffer.concat(chunks)).then(
          ({ status, headers = {}, body = '' }) => response.writeHead(status, headers).end(body),
          () => response.destroy(),
        );
      });
      request.on('error', () => response.destroy());
    });
  }

  static async open(directory: string, real: RunningServer): Promise<ScriptedServer> {
    const nowMs = Date.now();
    const identity = await openTlsIdentity(directory, await openAuthority(directory, nowMs), [], nowMs);
    const server = new ScriptedServer(identity, new HttpsClient(real.url, real.authorityCertificate));
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    this.#real.close();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(path: string, type: string | undefined, body: Buffer): Promise<Scripted> {
    const isUpload = path === paths.batches;
    if (isUpload) this.uploads += 1;
    else this.probes += 1;
    const scripted = await (isUpload ? this.onBatches(body, path) : this.onProbe(body, path));
    if (scripted !== null) return scripted;
    const reply = await this.#real.ask(path, isUpload ? { body, ...(type === undefined ? {} : { type }) } : {});
    const retryAfter = reply.headers['retry-after'];
    return { status: reply.status, body: reply.body, headers: typeof retryAfter === 'string' ? { 'retry-after': retryAfter } : {} };
  }
}
