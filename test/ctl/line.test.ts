// The sandbox's line: bytes pass untouched, a cut resets what is open and refuses what is new, the port stays.
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { chooseLinePort, type Line, loopback, openLine } from '#ctl/world/line.ts';

let far: Server;
let line: Line;

beforeEach(async () => {
  far = createServer((socket) => socket.on('error', () => undefined).pipe(socket));
  await new Promise<void>((resolve) => far.listen(0, loopback, resolve));
  line = await openLine(await chooseLinePort(Math.random));
  line.lead((far.address() as AddressInfo).port);
});

afterEach(async () => {
  await line.close();
  await new Promise<void>((resolve) => far.close(() => resolve()));
});

/** A connection through the line, or the error's code. */
function dial(): Promise<Socket | string> {
  return new Promise((resolve) => {
    const socket = connect(line.port, loopback);
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
    socket.once('connect', () => resolve(socket));
  });
}

async function dialled(): Promise<Socket> {
  const socket = await dial();
  if (typeof socket === 'string') throw new Error(socket);
  return socket;
}

function echo(socket: Socket, bytes: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const got: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => {
      got.push(chunk);
      if (Buffer.concat(got).length >= bytes.length) resolve(Buffer.concat(got));
    });
    socket.once('error', reject);
    socket.write(bytes);
  });
}

test('what goes in comes out at the other end, and back', async () => {
  const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, at) => at % 251));
  const socket = await dialled();
  expect((await echo(socket, bytes)).equals(bytes)).toBe(true);
  socket.destroy();
});

test('a cut line breaks open connections and refuses new ones; restored, it serves on the same port', async () => {
  const { port } = line;
  const socket = await dialled();
  await echo(socket, Buffer.from('before'));
  const broken = new Promise<string>((resolve) => socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? '')));
  await line.cut();
  expect(await broken).toBe('ECONNRESET');
  expect(line.isUp()).toBe(false);
  expect(await dial()).toBe('ECONNREFUSED');
  await line.restore();
  expect(line.isUp()).toBe(true);
  expect(line.port).toBe(port);
  const again = await dialled();
  expect((await echo(again, Buffer.from('after'))).toString()).toBe('after');
  again.destroy();
});

test('cutting and restoring twice is the same as once', async () => {
  await line.cut();
  await line.cut();
  await line.restore();
  await line.restore();
  (await dialled()).destroy();
});

test('a far end that is gone ends the connection', async () => {
  line.lead(1);
  const socket = await dialled();
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.on('error', () => undefined);
  socket.resume();
  await closed;
});

test('a port that is taken is refused', async () => {
  await expect(openLine(line.port)).rejects.toMatchObject({ code: 'busy' });
});
