// Owns: a ticket server in this process for tests, on loopback with a directory of its own, and a client that asks it as a token would.
import { createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Charter, openCharter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import {
  type Acknowledgement,
  type Enrolment,
  type EntryView,
  enrolmentSchema,
  entryListSchema,
  mediaTypes,
  openAcknowledgement,
  paths,
  type Refusal,
  refusalSchema,
} from '#ipc-schema/upstream.ts';
import type { GrantOptions } from '#server/grant.ts';
import { type RunningServer, type ServerOptions, startServer } from '#server/serve.ts';
import { type BuiltBatch, BuiltToken, builtTaxId } from './batch-builder.ts';
import { pack, sealTo } from './sealed-upload.ts';

export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

export interface Sent {
  readonly method?: string;
  readonly body?: Uint8Array;
  readonly type?: string;
}

const replyWaitMs = 20_000;

/** What a ticket grants here unless a test says otherwise. */
export function grantOptions(change: Partial<GrantOptions> = {}): GrantOptions {
  return {
    issuer: { taxId: builtTaxId, name: 'Example Gifts Ltd', address: ['1 High Street', 'London'] },
    currency: 'GBP',
    mode: 'hybrid',
    limits: { hours: 72, count: 1_000, amount: '100000', single: '5000' },
    series: [
      { kind: 'invoice', prefix: 'A-', digits: 8, first: 1, last: 99_999_999 },
      { kind: 'credit-note', prefix: 'C-', digits: 8, first: 1, last: 99_999_999 },
    ],
    ...change,
  };
}

/** One HTTPS request; the server must show a certificate of `authority` (DER). */
export class HttpsClient {
  readonly #agent: Agent;
  readonly #url: string;

  constructor(url: string, authority: Uint8Array) {
    this.#url = url;
    this.#agent = new Agent({ keepAlive: true, ca: new X509Certificate(authority).toString(), maxSockets: 32 });
  }

  async ask(path: string, sent: Sent = {}): Promise<Reply> {
    const { body, type } = sent;
    return await new Promise((resolve, reject) => {
      const headers = {
        ...(type === undefined ? {} : { 'content-type': type }),
        ...(body === undefined ? {} : { 'content-length': body.length }),
      };
      const method = sent.method ?? (body === undefined ? 'GET' : 'POST');
      const asking = request(`${this.#url}${path}`, { agent: this.#agent, method, headers, timeout: replyWaitMs }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.once('error', reject);
        response.once('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }));
      });
      asking.once('timeout', () => asking.destroy(new Error('no answer in time')));
      asking.once('error', reject);
      asking.end(body);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

export interface EnrolledToken {
  readonly token: BuiltToken;
  readonly enrolment: Enrolment;
  readonly charter: Charter;
  readonly ackKey: KeyObject;
}

export class ServerRig {
  readonly directory: string;
  server: RunningServer;
  client: HttpsClient;

  private constructor(directory: string, server: RunningServer) {
    this.directory = directory;
    this.server = server;
    this.client = new HttpsClient(server.url, server.authorityCertificate);
  }

  static async start(options: Partial<ServerOptions> = {}): Promise<ServerRig> {
    const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'ukey-server-')));
    return new ServerRig(directory, await startServer({ ...options, directory }));
  }

  /** Closes the server and starts one on the same directory and port. */
  async restart(options: Partial<ServerOptions> = {}): Promise<void> {
    const { port } = this.server;
    this.client.close();
    await this.server.close();
    this.server = await startServer({ port, ...options, directory: this.directory });
    this.client = new HttpsClient(this.server.url, this.server.authorityCertificate);
  }

  async stop(): Promise<void> {
    this.client.close();
    await this.server.close();
    await rm(this.directory, { recursive: true, force: true });
  }

  async enrol(token = new BuiltToken(), change: Partial<GrantOptions> = {}): Promise<EnrolledToken> {
    const ticket = await this.server.createTicket(grantOptions(change));
    const reply = await this.client.ask(paths.enrol, { body: token.enrolment(ticket.code), type: mediaTypes.cose });
    if (reply.status !== 200) throw new Error(`enrolment was refused with ${reply.status}`);
    const enrolment = enrolmentSchema.parse(JSON.parse(reply.body.toString('utf8')));
    const authorityKey = createPublicKey(
      new X509Certificate(Buffer.from(enrolment.authorityCertificate, 'base64')).publicKey.export({ type: 'spki', format: 'pem' }),
    );
    const charter = openCharter(Buffer.from(enrolment.charter, 'base64'), authorityKey);
    token.begin(Buffer.from(enrolment.certificate, 'base64'));
    return { token, enrolment, charter, ackKey: publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')) };
  }

  async send(enrolled: EnrolledToken, batches: readonly (BuiltBatch | Uint8Array)[]): Promise<Reply> {
    return await this.sendPacked(enrolled, pack(enrolled.token.upload(batches)));
  }

  async sendPacked(enrolled: EnrolledToken, packed: Uint8Array): Promise<Reply> {
    const sealed = await sealTo(Buffer.from(enrolled.charter.server.sealKey, 'base64'), packed);
    return await this.client.ask(paths.batches, { body: sealed, type: mediaTypes.upload });
  }

  /** Uploads and opens the acknowledgement; fails on a refusal. */
  async acknowledged(enrolled: EnrolledToken, batches: readonly (BuiltBatch | Uint8Array)[]): Promise<Acknowledgement> {
    const reply = await this.send(enrolled, batches);
    if (reply.status !== 200) throw new Error(`refused with ${reply.status}: ${reply.body.toString('utf8')}`);
    return openAcknowledgement(reply.body, enrolled.ackKey);
  }

  async entries(tokenId: string, query: string): Promise<EntryView[]> {
    const reply = await this.client.ask(`${paths.tokens}/${tokenId}/entries?${query}`);
    return entryListSchema.parse(JSON.parse(reply.body.toString('utf8'))).entries;
  }
}

export function refusalIn(reply: Reply): Refusal & { readonly status: number } {
  return { ...refusalSchema.parse(JSON.parse(reply.body.toString('utf8'))), status: reply.status };
}
