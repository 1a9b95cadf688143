import { X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decodeEvidence, evidenceFromQr } from '#ipc-schema/evidence.ts';
import { verifyEvidence } from '#ipc-schema/verify.ts';
import { openRig, type Rig, sale } from '#test/support/rig.ts';

let rig: Rig;
beforeAll(async () => {
  rig = await openRig();
});
afterAll(() => rig?.close());

test('a till issues an invoice; the answer proves itself', async () => {
  const issued = await rig.till.issue(sale('k-1'));
  expect(issued).toMatchObject({ number: 'A-00000001', total: '35.64', taxTotal: '5.94', currency: 'GBP', repeated: false });
  const { certificate } = await rig.admin.call('service.identity', {});
  const key = new X509Certificate(Buffer.from(certificate, 'base64')).publicKey;
  const evidence = decodeEvidence(Buffer.from(issued.evidence ?? '', 'base64'));
  const { leaf } = verifyEvidence(evidence, key, Buffer.from(issued.document ?? ''));
  expect(leaf.number).toBe('A-00000001');
  expect(Buffer.from(evidenceFromQr(issued.qr ?? ''))).toEqual(Buffer.from(issued.evidence ?? '', 'base64'));
});
