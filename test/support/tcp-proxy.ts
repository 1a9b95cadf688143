// Owns: a line between two TCP ports on loopback that a test cuts, silences or sends elsewhere.
// Invariants: bytes pass unchanged and in order; everything is closed by `close`.
import net from 'node:net';

export class TcpProxy {
  targetPort: number;
  /** `down`: hangs up at once; `silent`: takes everything and answers nothing. */
  state: 'up' | 'down' | 'silent' = 'up';
  /** Bytes of the next connection after which it is cut, each way; then the line is whole again. */
  cutOnce: { readonly up?: number; readonly down?: number } | null = null;
  connections = 0;
  bytesUp = 0;
  bytesDown = 0;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  private constructor(targetPort: number) {
    this.targetPort = targetPort;
    this.#server = net.createServer((socket) => this.#take(socket));
  }

  static async open(targetPort: number): Promise<TcpProxy> {
    const proxy = new TcpProxy(targetPort);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject);
      proxy.#server.listen(0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  /** Ends what is connected now. */
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.hangUp();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #take(near: net.Socket): void {
    this.connections += 1;
    this.#keep(near);
    if (this.state === 'down') near.destroy();
    if (this.state !== 'up') return;
    const far = net.connect(this.targetPort, '127.0.0.1');
    this.#keep(far);
    const cut = this.cutOnce;
    this.cutOnce = null;
    this.#pipe(near, far, cut?.up, (bytes) => {
      this.bytesUp += bytes;
    });
    this.#pipe(far, near, cut?.down, (bytes) => {
      this.bytesDown += bytes;
    });
  }

  #pipe(from: net.Socket, to: net.Socket, cutAfterBytes: number | undefined, count: (bytes: number) => void): void {
    let leftBytes = cutAfterBytes ?? Number.POSITIVE_INFINITY;
    from.on('data', (chunk: Buffer) => {
      const passed = chunk.subarray(0, leftBytes);
      leftBytes -= passed.length;
      count(passed.length);
      to.write(passed, () => {
        if (leftBytes > 0) return;
        from.destroy();
        to.destroy();
      });
    });
    from.on('close', () => to.destroy());
  }

  #keep(socket: net.Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => undefined); // a line that is cut: the other side is told by 'close'
    socket.on('close', () => this.#sockets.delete(socket));
    socket.resume();
  }
}
