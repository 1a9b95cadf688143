// Owns: the harness's end of the floor process and of the bare node-ipc echo.
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { startPart } from './process.ts';
import type { World } from './world.ts';
import { pin } from './world-files.ts';

export interface FloorQuestion {
  readonly module: string | null;
  readonly pin: string;
  /** On the disk of the image. */
  readonly file: string;
  /** Of one frame. */
  readonly bytes: number;
  readonly count: number;
  /** Before each call: 0 is as fast as it goes, with everything in the processor's caches. */
  readonly pauseMs: number;
}

/** Microseconds, each call for itself. */
export interface Floors {
  readonly signUs: Float64Array;
  readonly verifyUs: Float64Array;
  readonly syncUs: Float64Array;
  /** Two at once, until both are done: FLASH and mirror. */
  readonly twoSyncsUs: Float64Array;
}

export class FloorMeter {
  readonly #part: ChildProcess;
  readonly #world: World;
  readonly #ended: Promise<never>;

  /** Beside a provisioned world: its module, its key, its disk. */
  constructor(world: World) {
    this.#world = world;
    this.#part = startPart('./floor-process.ts', world.environment);
    this.#ended = once(this.#part, 'exit').then(() => {
      throw new Error('the floor process has ended; its last words stand above');
    });
    this.#ended.catch(() => undefined); // told to who asks
  }

  async measure(count: number, bytes: number, pauseMs = 0): Promise<Floors> {
    const { module } = this.#world.options;
    const question: FloorQuestion = { module, pin, file: path.join(this.#world.files.folder, 'floor.img'), bytes, count, pauseMs };
    this.#part.send(question);
    const [floors] = (await Promise.race([once(this.#part, 'message'), this.#ended])) as [Floors];
    return floors;
  }

  close(): void {
    this.#part.kill();
  }
}

/** A bare node-ipc server in a process of its own. */
export class Echo {
  readonly socket: string;
  readonly #part: ChildProcess;

  private constructor(socket: string, part: ChildProcess) {
    this.socket = socket;
    this.#part = part;
  }

  static async start(folder: string): Promise<Echo> {
    const socket = path.join(folder, 'echo.sock');
    const part = startPart('./echo-process.ts');
    part.send(socket);
    await once(part, 'message');
    return new Echo(socket, part);
  }

  close(): void {
    this.#part.kill();
  }
}
