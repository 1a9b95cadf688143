// Owns: the floor of every socket figure: the owner's package as it comes, sending each frame back. A process of its own, as the service is.
import process from 'node:process';
import { openEcho } from '#test/ipc/node-ipc-peer.ts';

process.on('disconnect', () => process.exit(0));
process.once('message', (socket: string) => {
  openEcho(socket).then(
    () => process.send?.('listening'),
    (thrown: unknown) => {
      process.stderr.write(`the echo does not listen: ${String(thrown)}\n`);
      process.exit(1);
    },
  );
});
