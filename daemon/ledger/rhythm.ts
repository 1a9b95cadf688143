// Owns: the rhythm of a token: how long its signatures take lately, and how long to gather before the next one.
// A slow token signs at once, or callers fall into two groups that wait for each other's signature: those of the batch before come back a moment
// after it is sealed. Gathering that moment puts all of them into one batch. Pure; a quick token never gathers.

/** Signatures from here on are slow: a moment of gathering is short against one. */
export const slowSignatureMs = 20;
const gatherShare = 0.06;
export const gatherMaxMs = 25;
/** However many come one after the other. */
const gatherLongestShare = 0.4;
/** Weight of the newest signature. */
const newestShare = 0.25;

/** Mean over the last few; `before` null: this is the first. */
export function signatureMeanMs(before: number | null, newestMs: number): number {
  return before === null ? newestMs : before + newestShare * (newestMs - before);
}

/** How long to wait after a seal, and after each who comes back, before the next batch is taken; 0: not at all. */
export function gatherMs(meanSignatureMs: number | null): number {
  if (meanSignatureMs === null || meanSignatureMs < slowSignatureMs) return 0;
  return Math.min(gatherMaxMs, meanSignatureMs * gatherShare);
}

/** The longest wait in all: what it costs whoever comes at any moment is half of it. */
export function gatherLongestMs(meanSignatureMs: number | null): number {
  return (meanSignatureMs ?? 0) * gatherLongestShare;
}
