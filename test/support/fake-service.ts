// Owns: a service that says what a test has it say, on a real socket, for programs that speak the local API.
// Invariants: it speaks through the contract's own envelope and handshake; parameters of known methods are checked against the method
// table, so that a client that sends what no service takes is refused here too. Every request is kept.
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decodeFrame, encodeAnswer, encodeRefusal, type Request } from '#ipc-schema/envelope.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { FrameCutter } from '#ipc-schema/frame-cutter.ts';
import { clientMac, macEquals, serviceMac } from '#ipc-schema/handshake.ts';
import { jsonLimits } from '#ipc-schema/json.ts';
import { isMethodName, type MethodName, methods, type Params, type Result } from '#ipc-schema/methods.ts';
import { check } from '#ipc-schema/schema.ts';

/** What each method answers; a thrown UkeyError is a refusal. `hangUp` closes the connection instead of answering. */
export type Script = { [M in MethodName]?: (params: Params<M>) => Result<M> };

export class HangUp extends Error {}

export interface FakeServiceOptions {
  readonly script: Script;
  /** Terminals by id; where there are any, hello and authenticate come first, as on the till door. */
  readonly terminals?: Readonly<Record<string, Uint8Array>>;
  /** Answers authenticate with a proof that it cannot make. */
  readonly isImpostor?: boolean;
}

export class FakeService {
  readonly socketPath: string;
  readonly requests: Request[] = [];
  readonly #directory: string;
  readonly #options: FakeServiceOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(directory: string, options: FakeServiceOptions) {
    this.#directory = directory;
    this.socketPath = join(directory, 's.sock');
    this.#options = options;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async start(options: FakeServiceOptions): Promise<FakeService> {
    const service = new FakeService(await mkdtemp(join(tmpdir(), 'ukey-fake-')), options);
    await new Promise<void>((resolve) => service.#server.listen(service.socketPath, resolve));
    return service;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /** Names of the methods that were asked for, without hello and authenticate. */
  get asked(): string[] {
    return this.requests.map(({ method }) => method).filter((method) => method !== 'hello' && method !== 'authenticate');
  }

  paramsOf(method: MethodName): Readonly<Record<string, unknown>> | undefined {
    return this.requests.find((request) => request.method === method)?.params;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    await rm(this.#directory, { recursive: true, force: true });
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    const cutter = new FrameCutter();
    const caller = { challenge: randomBytes(32).toString('hex'), isKnown: this.#options.terminals === undefined };
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      cutter.push(chunk);
      for (let frame = cutter.take(jsonLimits.maxBytes); frame !== null; frame = cutter.take(jsonLimits.maxBytes)) {
        const message = decodeFrame(frame);
        if (message.kind !== 'request') throw new Error(`a ${message.kind} came from a client`);
        this.requests.push(message);
        this.#answer(socket, message, caller);
      }
    });
  }

  #answer(socket: Socket, request: Request, caller: { readonly challenge: string; isKnown: boolean }): void {
    try {
      socket.write(encodeAnswer(request.id, this.#result(request, caller)));
    } catch (thrown) {
      if (thrown instanceof HangUp) socket.destroy();
      else socket.write(encodeRefusal(request.id, asUkeyError(thrown)));
    }
  }

  #result({ method, params }: Request, caller: { readonly challenge: string; isKnown: boolean }): unknown {
    if (!isMethodName(method)) throw new UkeyError('unknown-method', `${method} is not known`);
    const checked: unknown = check<unknown>(methods[method].params, params);
    if (method === 'hello') return { version: 1, server: 'fake/1', challenge: caller.challenge, standing: 'locked' };
    if (method === 'authenticate') return this.#authenticate(checked as Params<'authenticate'>, caller);
    if (!caller.isKnown) throw new UkeyError('unauthenticated', 'hello and authenticate come first');
    const say = this.#options.script[method] as ((params: unknown) => unknown) | undefined;
    if (say === undefined) throw new UkeyError('forbidden', `${method} is not in the script`);
    return say(checked);
  }

  #authenticate({ terminal, nonce, mac }: Params<'authenticate'>, caller: { readonly challenge: string; isKnown: boolean }): unknown {
    const secret = this.#options.terminals?.[terminal];
    const handshake = { challenge: caller.challenge, nonce, terminal };
    if (secret === undefined || !macEquals(clientMac(secret, handshake), mac)) throw new UkeyError('unauthenticated', 'not its secret');
    caller.isKnown = true;
    return { role: 'till', mac: this.#options.isImpostor === true ? '0'.repeat(64) : serviceMac(secret, handshake) };
  }
}
