// Owns: the targets of the ticket server: what comes in over HTTP, given to a whole server without its socket. Input: `METHOD target media-type`, a
// line feed, and the body; bodies of uploads are packed and sealed to the server as a token would, so that the fuzz comes behind the seal.
// Invariants: whatever is asked, there is an answer of a known status and never `internal`; a fault of the server is what it logs as one.
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { recoveryPaths } from '#ipc-schema/recovery.ts';
import { enrolmentSchema, mediaTypes, paths } from '#ipc-schema/upstream.ts';
import { makeAccept, unpack } from '#server/accept.ts';
import { refusalOf, refusalStatus } from '#server/refusal.ts';
import { answerTo, type RouteParts } from '#server/routes.ts';
import { openDirectory } from '#server/serve.ts';
import { makeTicket, redeem } from '#server/ticket.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { pack, sealTo } from '#test/support/sealed-upload.ts';
import { grantOptions } from '#test/support/server-rig.ts';
import { Changed, type FuzzTarget, isRefusal, utf8 } from './target.ts';
import { vectorsOf } from './vector-files.ts';

const statuses: readonly number[] = [200, 405, ...Object.values(refusalStatus)].filter((status) => status !== refusalStatus.internal);

async function ask(
  parts: RouteParts,
  method: string,
  target: string,
  mediaType: string,
  body: Uint8Array,
): Promise<ReturnType<typeof refusalOf> | number> {
  try {
    const { status } = await answerTo(parts, { method, target, mediaType, body });
    if (!statuses.includes(status)) throw new Changed(`the server answers ${status}`);
    return status;
  } catch (thrown) {
    isRefusal(thrown);
    return refusalOf(thrown);
  }
}

function judgeQuestion(parts: RouteParts): FuzzTarget['judge'] {
  return async (input) => {
    const bytes = Buffer.from(input);
    const end = bytes.indexOf(0x0a);
    const [method = '', target = '', mediaType = ''] = bytes
      .subarray(0, end < 0 ? bytes.length : end)
      .toString('latin1')
      .split(' ');
    const answer = await ask(parts, method, target, mediaType, end < 0 ? new Uint8Array() : bytes.subarray(end + 1));
    return answer === 200 ? 'decoded' : 'refused';
  };
}

/** What is not this token's next batch leaves the server as it was. */
function judgeUpload(parts: RouteParts, tokenId: string): FuzzTarget['judge'] {
  const key = parts.authority.uploadPublicKey;
  return async (input) => {
    const before = await parts.database.findToken(tokenId);
    const answer = await ask(parts, 'POST', paths.batches, mediaTypes.upload, await sealTo(key, pack(input)));
    const after = await parts.database.findToken(tokenId);
    if (before?.head.batchIndex !== after?.head.batchIndex) throw new Changed('a batch was stored that the token never sealed');
    return answer === 200 ? 'decoded' : 'refused';
  };
}

export async function serverTargets(): Promise<readonly FuzzTarget[]> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'ukey-fuzz-server-'));
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }));
  const parts = await openDirectory({ directory });
  const route: RouteParts = { ...parts, accept: makeAccept(parts) };
  const token = new BuiltToken();
  const ticket = await makeTicket(parts, grantOptions(), 'https://127.0.0.1:1');
  const enrolled = await redeem(parts, token.enrolment(ticket.code));
  if (enrolled.kind !== 'enrolled') throw new Error(enrolled.refusal.message);
  token.begin(Buffer.from(enrolmentSchema.parse(JSON.parse(enrolled.json)).certificate, 'base64'));
  const first = token.batch(2);
  const upload = token.upload([first]);
  const sealed = await sealTo(parts.authority.uploadPublicKey, pack(upload));
  await route.accept(sealed);
  const line = (text: string, body: Uint8Array = new Uint8Array()): Buffer => Buffer.concat([utf8(`${text}\n`), body]);
  const token1 = `${paths.tokens}/${token.tokenId}`;
  const questions = [
    ...[
      paths.probe,
      `${paths.probe}?nonce=${'ab'.repeat(16)}`,
      paths.tokens,
      `${paths.tokens}?after=${token.tokenId}&limit=2`,
      paths.authority,
      '/',
    ],
    ...[
      token1,
      `${token1}/entries?from=1&limit=10`,
      `${token1}/entries?number=A-00000001`,
      `${token1}/batches?from=1`,
      `${token1}/alarm?nonce=${'ab'.repeat(16)}`,
      `${token1}/certificate?batch=1`,
    ],
  ].map((target) => line(`GET ${target} -`));
  const writes = [paths.enrol, recoveryPaths.key, recoveryPaths.succession].map((target) =>
    line(`POST ${target} ${mediaTypes.cose}`, token.enrolment('ABCD')),
  );
  return [
    { name: 'http-question', form: 'text', seeds: questions, judge: judgeQuestion(route) },
    {
      name: 'http-body',
      form: 'bytes',
      seeds: [...writes, line(`POST ${paths.batches} ${mediaTypes.upload}`, sealed)],
      judge: judgeQuestion(route),
    },
    {
      name: 'http-upload',
      form: 'cbor',
      seeds: [upload, token.upload([first, first]), ...vectorsOf('upload.json')],
      judge: judgeUpload(route, token.tokenId),
    },
    { name: 'packed', form: 'bytes', seeds: [pack(upload), pack(Buffer.alloc(200_000))], judge: judgePacked },
  ];
}

async function judgePacked(input: Uint8Array): Promise<'refused' | 'decoded'> {
  try {
    await unpack(input);
    return 'decoded';
  } catch (thrown) {
    isRefusal(thrown);
    return 'refused';
  }
}
