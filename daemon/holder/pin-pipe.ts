// Owns: the way of PINs from the front into the holder process: a pipe of their own beside the channel.
// Why: Node's channel serialises a message into memory that nobody can overwrite afterwards; a PIN in it would stay there, for a core image to show.
// Invariants: in a message each PIN stands as zeros of its length; its bytes go into the pipe before the message goes into the channel, in the order
// of the messages, so that who has the message can read them without waiting; the sender's bytes are overwritten as soon as they are in the pipe.
// Must not: know what a message is for.
import type { ChildProcess } from 'node:child_process';
import { readSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { wipe } from '#token/pin.ts';

/** Of the pipe in the holder process; 0 to 3 are the standard streams and the channel. */
export const pinDescriptor = 4;

/** Hands the PINs over and leaves zeros in their place. A pipe that broke is the end of the process, which ends the call. */
export function sendPins(child: ChildProcess, pins: readonly Uint8Array[]): void {
  if (pins.length === 0) return;
  // In Node's pool, which never moves: V8 keeps small arrays of their own in its heap, and leaves a copy behind when it moves them.
  const bytes = Buffer.concat(pins);
  wipe(...pins);
  pinPipeOf(child)?.write(bytes, () => wipe(bytes));
}

/** Fills the places of a message's PINs. Throws when the front is gone. */
export function receivePins(pins: readonly Uint8Array[]): void {
  for (const pin of pins) {
    for (let at = 0; at < pin.length; ) {
      const read = readSync(pinDescriptor, pin, at, pin.length - at, null);
      if (read === 0) throw new Error('the front closed the pipe of the PINs');
      at += read;
    }
  }
}

/** Null: the process was never started. */
export function pinPipeOf(child: ChildProcess): Writable | null {
  return (child.stdio[pinDescriptor] as Writable | null | undefined) ?? null;
}
