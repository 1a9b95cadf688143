// Owns: a process at the other end of channel and pipe: tells of each message what its PINs' places held when it came, and what the pipe brought.
import { type Call, pinsOf } from '#holder/messages.ts';
import { receivePins } from '#holder/pin-pipe.ts';

const text = (pins: readonly Uint8Array[]): string[] => pins.map((pin) => Buffer.from(pin).toString('latin1'));

process.on('disconnect', () => process.exit());
process.on('message', (call: Call) => {
  const pins = pinsOf(call);
  const came = text(pins);
  receivePins(pins);
  process.send?.({ came, brought: text(pins) });
});
