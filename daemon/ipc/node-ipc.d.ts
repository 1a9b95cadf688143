// Owns: the types of the part of node-ipc 14.0.0 that listen.ts uses; the package brings none. Read off its source
// (services/IPC.js, dao/socketServer.js, entities/EventParser.js); nothing is promised here that is not there.
declare module 'node-ipc' {
  import type { Server as NetServer, Socket } from 'node:net';

  /** A parser of one's own: `raw: true` has node-ipc hand over each chunk as the 'data' event, undecoded. */
  export interface IpcParser {
    readonly raw: boolean;
    encode(type: string, data: unknown): string | Buffer;
    read(state: unknown, chunk: Buffer, receive: (message: { type: string; data: unknown }) => void): unknown;
  }

  export interface IpcConfig {
    appspace: string;
    socketRoot: string;
    id: string;
    parser: 'raw' | 'fast' | 'guarded' | 'assured' | IpcParser;
    unlink: boolean;
    silent: boolean;
    logPayloads: boolean;
    maxConnections: number;
    maxRetries: number;
    retry: number;
    readableAll: boolean;
    writableAll: boolean;
    secureSocketRoot: boolean;
  }

  export interface IpcServer {
    readonly server: NetServer;
    on(event: 'start', handler: () => void): IpcServer;
    on(event: 'connect', handler: (socket: Socket) => void): IpcServer;
    on(event: 'data', handler: (chunk: Buffer, socket: Socket) => void): IpcServer;
    on(event: 'close', handler: (socket: Socket) => void): IpcServer;
    on(event: 'error', handler: (error: Error) => void): IpcServer;
    on(event: string, handler: (data: unknown, socket: Socket) => void): IpcServer;
    start(): void;
    stop(): void;
    write(socket: Socket, message: string | Buffer): boolean;
    emit(socket: Socket, type: string, data: unknown): boolean;
  }

  export interface IpcClient {
    on(event: string, handler: (data: unknown) => void): IpcClient;
    emit(type: string, data: unknown): boolean;
  }

  export class IPCModule {
    readonly config: IpcConfig;
    readonly server: IpcServer;
    readonly of: Record<string, IpcClient>;
    serve(path: string, onStart: () => void): void;
    connectTo(id: string, path: string, callback: () => void): void;
    disconnect(id: string): void;
  }
}
