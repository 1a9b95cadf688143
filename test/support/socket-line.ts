// Owns: a line between a client and a local socket that a test cuts at what passes (before it arrives, or after it arrived and before it is answered), or
// holds up until the test lets it go.
// Invariants: bytes pass unchanged and in order; everything is closed by `close`.
import net from 'node:net';

/** `before`: what matches never arrives. `after`: it arrives, and its answer does not come back. */
export interface Cut {
  readonly when: 'before' | 'after';
  /** Bytes from the client's side that this is about. */
  readonly at: string;
  /** From then on nobody is let in. */
  readonly isForGood?: boolean;
}

export class SocketLine {
  /** For the next bytes that match; then the line is whole again. */
  cutOnce: Cut | null = null;
  /** Takes everything, passes nothing on. */
  isSilent = false;
  cuts = 0;
  /** The next bytes that hold this are kept back until `letGo`. */
  holdOnce: string | null = null;
  #held: (() => void) | null = null;
  #isDown = false;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  private constructor(target: string) {
    this.#server = net.createServer((near) => this.#join(near, net.connect(target)));
  }

  static async open(path: string, target: string): Promise<SocketLine> {
    const line = new SocketLine(target);
    await new Promise<void>((resolve, reject) => {
      line.#server.once('error', reject);
      line.#server.listen(path, resolve);
    });
    return line;
  }

  get isHolding(): boolean {
    return this.#held !== null;
  }

  letGo(): void {
    this.#held?.();
    this.#held = null;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(near: net.Socket, far: net.Socket): void {
    let isCutting = this.#isDown;
    for (const socket of [near, far]) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined); // a line that is cut: the other side is told by 'close'
      socket.on('close', () => {
        this.#sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.on('data', (chunk: Buffer) => {
      if (this.isSilent) return;
      const cut = this.cutOnce;
      if (cut !== null && chunk.includes(cut.at)) {
        this.cutOnce = null;
        this.cuts += 1;
        this.#isDown = cut.isForGood ?? false;
        if (cut.when === 'before') {
          near.destroy();
          return;
        }
        isCutting = true;
      }
      if (this.holdOnce !== null && chunk.includes(this.holdOnce)) {
        this.holdOnce = null;
        this.#held = () => far.write(chunk);
        return;
      }
      far.write(chunk);
    });
    far.on('data', (chunk: Buffer) => {
      if (isCutting) near.destroy();
      else if (!this.isSilent) near.write(chunk);
    });
  }
}
