// Owns: the door of a running sandbox: a socket of its owner's alone, one JSON line in, one JSON line out.
// Invariants: a line has a maximum; an unknown command is refused; `status` and `stop` are answered also while the world starts; `stop` is answered when everything has ended.
// This is no part of the product's local API: it moves the scenery (line, token), never the ledger.
import { chmodSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { endAs } from '#ctl/exit-codes.ts';
import { asUkeyError, type ErrorData, isErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import type { World, WorldStatus } from './world.ts';

export const controls = ['link down', 'link up', 'token unplug', 'token plug', 'status', 'stop'] as const;
export type Control = (typeof controls)[number];

const lineMaxChars = 4_096;
const answerWaitMs = 120_000;
const ownerOnly = 0o600;

type Answer = { readonly status: WorldStatus } | { readonly error: ErrorData & { readonly message: string } };

export function isControl(text: string): text is Control {
  return (controls as readonly string[]).includes(text);
}

/** Listens; the world's lock is held, so a socket that stands there is a dead one's. `onStop`: ends the world. */
export async function openControl(world: World, onStop: () => Promise<void>): Promise<{ close(): void }> {
  const file = world.layout.controlSocket;
  rmSync(file, { force: true });
  const server = createServer((socket) => serve(socket, world, onStop));
  await listen(server, file);
  chmodSync(file, ownerOnly);
  return {
    close() {
      server.close();
      rmSync(file, { force: true });
    },
  };
}

function listen(server: Server, file: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(file, () => resolve());
  });
}

function serve(socket: Socket, world: World, onStop: () => Promise<void>): void {
  let waiting = '';
  socket.setEncoding('utf8');
  // Whoever asked and went away needs no answer.
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk: string) => {
    waiting += chunk;
    const end = waiting.indexOf('\n');
    if (end < 0 && waiting.length <= lineMaxChars) return;
    socket.pause();
    const command = waiting.slice(0, Math.max(0, end));
    obey(command, world, onStop)
      .then((status): Answer => ({ status }))
      .catch((thrown: unknown): Answer => {
        const error = asUkeyError(thrown);
        return { error: { ...error.toData(), message: error.message } };
      })
      .then((answer) => socket.end(`${JSON.stringify(answer)}\n`))
      .catch(() => socket.destroy());
  });
}

async function obey(command: string, world: World, onStop: () => Promise<void>): Promise<WorldStatus> {
  if (!isControl(command)) throw new UkeyError('unknown-method', 'a sandbox does not know this command');
  if (!world.isReady && command !== 'status' && command !== 'stop')
    throw new UkeyError('busy', 'the sandbox is starting', { action: 'Wait for its JSON line, then repeat.' });
  switch (command) {
    case 'link down':
      await world.cutLine();
      await world.lineNoticed();
      break;
    case 'link up':
      await world.restoreLine();
      await world.lineNoticed();
      break;
    case 'token unplug':
      await world.unplug();
      break;
    case 'token plug':
      await world.plug();
      break;
    case 'status':
      break;
    case 'stop': {
      const last = await world.status();
      await onStop();
      return last;
    }
  }
  return await world.status();
}

/** Has a running sandbox do something. Ends as `unreachable` when none runs there. */
export async function askWorld(controlSocket: string, dir: string, command: Control): Promise<WorldStatus> {
  const line = await exchange(controlSocket, command).catch((cause: unknown) => {
    throw endAs(
      'unreachable',
      new UkeyError('busy', `no sandbox runs in ${dir}`, { action: `Start it: ukeyctl sandbox --dir ${dir}`, cause }),
    );
  });
  const answer = JSON.parse(line) as Answer;
  if ('status' in answer) return answer.status;
  const { code, message, action } = answer.error;
  throw endAs('refused', new UkeyError(isErrorCode(code) ? code : 'internal', message, { action }));
}

function exchange(file: string, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(file);
    socket.setTimeout(answerWaitMs, () => socket.destroy(new Error('no answer in time')));
    socket.once('error', reject);
    socket.once('connect', () => socket.write(`${command}\n`));
    const lines = createInterface({ input: socket });
    lines.once('line', (line) => {
      socket.end();
      resolve(line);
    });
    lines.once('close', () => reject(new Error('closed without an answer')));
    // The reader passes the socket's errors on; they are handled above.
    lines.on('error', () => undefined);
  });
}
