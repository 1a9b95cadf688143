// Owns: seals as older versions left them, in the high spelling of their signature: on the FLASH of a rig whose service is stopped, and out of a token.
// Invariants: what is appended is this token's own, in its place in the chain; the index and the KEY's anchor stay behind, as after a power cut.
import type { Config } from '#ground/config.ts';
import { encodeCheckpoint } from '#holder/chain.ts';
import { holderConfigOf } from '#holder/configuration.ts';
import { mountLedger } from '#holder/mounting.ts';
import { partsOf } from '#holder/parts.ts';
import { encodeBatch, joinEntries, sealHashOf, sealPayload } from '#ipc-schema/batch.ts';
import { keyIdOf, makeSign1 } from '#ipc-schema/cose.ts';
import { bodyHashOf, encodeEntry, encodeLeaf } from '#ipc-schema/entry.ts';
import { hasLowS, otherSpellingOf } from '#ipc-schema/es256.ts';
import { buildTree, leafHash, rootOf } from '#ipc-schema/merkle.ts';
import { otherSeal } from '#ipc-schema/spelling.ts';
import { readLedger } from '#ledger/mounting.ts';
import { encodeTip, withBatchEnd, withEntry } from '#ledger/tip.ts';
import { builtDocument } from '#test/support/batch-builder.ts';
import type { Token } from '#token/token.ts';

/** A token whose module returns every signature in the high spelling. */
export function signingHigh(token: Token): Token {
  const sign = token.sign.bind(token);
  token.sign = (message) => {
    const signature = sign(message);
    return hasLowS(signature) ? (otherSpellingOf(signature) ?? signature) : signature;
  };
  return token;
}

/** Batches of one invoice each, numbered `A-…` from `firstNumber` on. Answers them. */
export async function appendHigh(config: Config, pin: string, firstNumber: number, count: number): Promise<readonly Uint8Array[]> {
  const parts = partsOf(holderConfigOf(config.tokens[0]));
  const token = parts.openToken();
  token.login(Buffer.from(pin));
  const { log, chain: found, mount } = await mountLedger(token, await parts.openDevice(false), null);
  const reads = {
    read: async (from: number, maxBytes: number) =>
      (await log.read(from, maxBytes)).map(({ index, payload }) => ({ batchIndex: index, bytes: payload })),
  };
  let { tip } = await readLedger(reads, mount);
  let chain = found;
  const appended: Uint8Array[] = [];
  for (let at = 0; at < count; at += 1) {
    const { nextBatch: batchIndex, nextSequence: sequence, headSealHash: previousSealHash } = chain;
    const number = `A-${String(firstNumber + at).padStart(8, '0')}`;
    const issuedAtMs = Date.now();
    const document = { ...builtDocument(Buffer.from(mount.tokenId).toString('hex'), sequence, issuedAtMs), number };
    const body = Buffer.from(JSON.stringify(document));
    const { kind, currency, total, taxTotal } = document;
    const fields = { kind, sequence, number, issuedAtMs, issuerTaxId: document.issuer.taxId, currency, total, taxTotal };
    const leaf = { ...fields, bodyHash: bodyHashOf(body) };
    const entry = { leaf: encodeLeaf(leaf), body };
    const root = rootOf(buildTree([leafHash(entry.leaf)]));
    const payload = sealPayload({
      ...{ tokenId: mount.tokenId, batchIndex, firstSequence: sequence, count: 1, root, previousSealHash, sealedAtMs: issuedAtMs },
    });
    const low = makeSign1('ES256', keyIdOf(token.publicKey()), payload, (message) => token.sign(message));
    const sealBytes = otherSeal(low) ?? low;
    const bytes = encodeBatch(sealBytes, joinEntries([encodeEntry(entry)]));
    await log.append(bytes, encodeCheckpoint(chain, encodeTip(tip)));
    tip = withBatchEnd(withEntry(tip, leaf, entry));
    chain = { nextBatch: batchIndex + 1, nextSequence: sequence + 1, headSealHash: sealHashOf(sealBytes) };
    appended.push(bytes);
  }
  await log.close();
  token.close();
  return appended;
}
