// Owns: giving memory back to the system at once, and not when V8 comes to collect it.
// Must not: be called for bytes of which anybody keeps a view: those are empty afterwards.

/** What is small enough to stand in Node's pool, beside others' bytes, stays. */
export function giveBack({ buffer }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength > Buffer.poolSize) buffer.transfer(0);
}
