// Owns: the load of round-trip.test.ts, in a process of its own: the same bytes, one at a time, to a bare echo and to the
// service in turns, over a plain socket, so that both are measured with the same client.
import { connect } from 'node:net';
import { encodeRequest } from '#ipc-schema/envelope.ts';

const rounds = 6;
const warmUps = 2;
const perRound = 2_000;

function pingPong(path: string, frame: string): Promise<(count: number) => Promise<number>> {
  const socket = connect({ path });
  let onFrame = (): void => undefined;
  socket.on('data', (chunk: Buffer) => {
    if (chunk[chunk.length - 1] === 0x0c) onFrame();
  });
  const run = (count: number): Promise<number> =>
    new Promise((resolve) => {
      const startMs = performance.now();
      let left = count;
      onFrame = () => {
        if (--left > 0) socket.write(frame);
        else resolve(((performance.now() - startMs) / count) * 1_000);
      };
      socket.write(frame);
    });
  return new Promise((resolve) => socket.once('connect', () => resolve(run)));
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

process.once('message', async ({ echoPath, servicePath, value }: { echoPath: string; servicePath: string; value: unknown }) => {
  const frame = encodeRequest(1, 'test.echo', { value });
  const bare = await pingPong(echoPath, frame);
  const service = await pingPong(servicePath, frame);
  const times = { bare: [] as number[], service: [] as number[] };
  for (let round = 0; round < rounds; round++) {
    const bareUs = await bare(perRound);
    const serviceUs = await service(perRound);
    if (round < warmUps) continue;
    times.bare.push(bareUs);
    times.service.push(serviceUs);
  }
  const [bareUs, serviceUs] = [median(times.bare), median(times.service)];
  process.send?.(
    `round_trip bytes=${Buffer.byteLength(frame)} node_ipc_echo_us=${bareUs.toFixed(1)} service_us=${serviceUs.toFixed(1)} ratio=${(serviceUs / bareUs).toFixed(2)}`,
    () => process.exit(0),
  );
});
