// Owns: the ticket server's program as processes of a test, and a token that enrols there and uploads, as the program's users see both.
// Invariants: every process that was started is killed by `stopAll`, by its own handle.
import { type ChildProcess, spawn } from 'node:child_process';
import { type KeyObject, X509Certificate } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openCharter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import {
  type EnrolmentTicket,
  enrolmentSchema,
  mediaTypes,
  openAcknowledgement,
  parseTicket,
  paths,
  tokenViewSchema,
} from '#ipc-schema/upstream.ts';
import { type BuiltBatch, BuiltToken } from './batch-builder.ts';
import { pack, sealTo } from './sealed-upload.ts';
import { grantOptions, HttpsClient, type Reply } from './server-rig.ts';

const program = fileURLToPath(new URL('../../server/main.ts', import.meta.url));

export interface Ready {
  readonly url: string;
  readonly publicUrl: string;
  readonly pid: number;
  readonly authorityFingerprint: string;
}

export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

export class ServerProcesses {
  #children: ChildProcess[] = [];

  run(...words: string[]): ChildProcess {
    const child = spawn(process.execPath, [program, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#children.push(child);
    return child;
  }

  stopAll(): void {
    for (const child of this.#children) child.kill('SIGKILL');
    this.#children = [];
  }

  /** `ticket-server ticket` beside a server. */
  async ticket(directory: string): Promise<EnrolmentTicket> {
    const options = join(directory, 'options.json');
    await writeFile(options, JSON.stringify(grantOptions()));
    return parseTicket(JSON.parse((await ended(this.run('ticket', '--dir', directory, '--charter', options))).out));
  }
}

export const ended = async (child: ChildProcess): Promise<Ended> => {
  let [out, err] = ['', ''];
  child.stdout?.on('data', (chunk: Buffer) => (out += chunk.toString('utf8')));
  child.stderr?.on('data', (chunk: Buffer) => (err += chunk.toString('utf8')));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, out, err };
};

/** Its JSON line. Its log is handed to `onLog`, and otherwise let go. */
export const ready = async (child: ChildProcess, onLog: (text: string) => void = () => undefined): Promise<Ready> =>
  await new Promise((resolve, reject) => {
    let text = '';
    child.stderr?.on('data', (chunk: Buffer) => onLog(chunk.toString('utf8')));
    child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString('utf8');
      if (text.includes('\n')) resolve(JSON.parse(text) as Ready);
    });
    child.once('close', (code) => reject(new Error(`ended with ${code} before it was ready`)));
  });

export class UploadingToken {
  readonly token: BuiltToken;
  readonly authority: Buffer;
  readonly #ackKey: KeyObject;
  readonly #sealKey: Buffer;

  private constructor(token: BuiltToken, authority: Buffer, ackKey: KeyObject, sealKey: Buffer) {
    this.token = token;
    this.authority = authority;
    this.#ackKey = ackKey;
    this.#sealKey = sealKey;
  }

  static async enrol(url: string, ticket: EnrolmentTicket): Promise<UploadingToken> {
    const authority = Buffer.from(ticket.tlsCertificate ?? '', 'base64');
    const client = new HttpsClient(url, authority);
    const token = new BuiltToken();
    const reply = await client.ask(paths.enrol, { body: token.enrolment(ticket.code), type: mediaTypes.cose });
    client.close();
    if (reply.status !== 200) throw new Error(`the enrolment was refused with ${reply.status}`);
    const enrolment = enrolmentSchema.parse(JSON.parse(reply.body.toString('utf8')));
    token.begin(Buffer.from(enrolment.certificate, 'base64'));
    const { server } = openCharter(Buffer.from(enrolment.charter, 'base64'), new X509Certificate(authority).publicKey);
    return new UploadingToken(
      token,
      authority,
      publicKeyFromSpki(Buffer.from(server.ackKey, 'base64')),
      Buffer.from(server.sealKey, 'base64'),
    );
  }

  client(url: string): HttpsClient {
    return new HttpsClient(url, this.authority);
  }

  async send(client: HttpsClient, batches: readonly BuiltBatch[]): Promise<Reply> {
    const body = await sealTo(this.#sealKey, pack(this.token.upload(batches)));
    return await client.ask(paths.batches, { body, type: mediaTypes.upload });
  }

  /** The batch up to which everything is acknowledged. */
  upTo({ body }: Reply): number {
    return openAcknowledgement(body, this.#ackKey).upToBatch;
  }

  async view(client: HttpsClient) {
    return tokenViewSchema.parse(JSON.parse((await client.ask(`${paths.tokens}/${this.token.tokenId}`)).body.toString('utf8')));
  }
}
