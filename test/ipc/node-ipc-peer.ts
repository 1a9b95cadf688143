// Owns: the tests' door to node-ipc: a bare server that echoes, which is the floor under our own round trip, and a client as a
// till written with that package would have it. Its own parser on both sides, nothing of ours.
import { IPCModule } from 'node-ipc';

function quiet(): IPCModule {
  const ipc = new IPCModule();
  Object.assign(ipc.config, { silent: true, secureSocketRoot: false, maxRetries: 0 });
  return ipc;
}

/** A bare node-ipc server that sends each 'ukey' event back. */
export async function openEcho(path: string): Promise<{ close(): void }> {
  const ipc = quiet();
  await new Promise<void>((resolve) => {
    ipc.serve(path, resolve);
    ipc.server.on('ukey', (data, socket) => void ipc.server.emit(socket, 'ukey', data));
    ipc.server.on('error', () => undefined);
    ipc.server.start();
  });
  return { close: () => ipc.server.stop() };
}

export interface NodeIpcPeer {
  send(message: unknown): void;
  /** The next event of type 'ukey'. */
  next(): Promise<unknown>;
  close(): void;
}

export async function connectNodeIpc(path: string): Promise<NodeIpcPeer> {
  const ipc = quiet();
  const arrived: unknown[] = [];
  let waiting: ((data: unknown) => void) | null = null;
  await new Promise<void>((resolve) => {
    ipc.connectTo('ukeyd', path, () => {
      ipc.of['ukeyd']?.on('connect', () => resolve());
      ipc.of['ukeyd']?.on('error', () => undefined);
      ipc.of['ukeyd']?.on('ukey', (data) => {
        const resolveNext = waiting;
        waiting = null;
        if (resolveNext === null) arrived.push(data);
        else resolveNext(data);
      });
    });
  });
  return {
    send: (message) => void ipc.of['ukeyd']?.emit('ukey', message),
    next: () => (arrived.length > 0 ? Promise.resolve(arrived.shift()) : new Promise((resolve) => (waiting = resolve))),
    close: () => ipc.disconnect('ukeyd'),
  };
}
