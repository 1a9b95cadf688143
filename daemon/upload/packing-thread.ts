// Owns: the thread in which large uploads are packed. Started by packer.ts only.
// Invariants: one answer to each message. On Linux it gives way to the threads in which tills are answered (there a priority is a thread's own).
import os from 'node:os';
import { parentPort } from 'node:worker_threads';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { FromPackingThread, ToPackingThread } from './packer.ts';
import { packUpload } from './packing.ts';

/** A third of what another thread gets where there is not enough for all. */
const priority = 5;

try {
  if (process.platform === 'linux') os.setPriority(priority);
} catch {
  // Not allowed here: it competes.
}

const answerTo = async ({ id, toPack }: ToPackingThread): Promise<FromPackingThread> => {
  try {
    return { id, packed: await packUpload(toPack) };
  } catch (thrown) {
    const { code, message } = asUkeyError(thrown);
    return { id, failed: { code, message } };
  }
};

parentPort?.on('message', (message: ToPackingThread) => {
  void answerTo(message).then((answer) => parentPort?.postMessage(answer));
});
