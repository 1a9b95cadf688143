import { expect, test } from 'vitest';
import { ackWaitMs } from '#desk/deliveries.ts';
import { methods } from '#ipc-schema/methods.ts';

test('callers are told how long their wait for an acknowledgement may last', () => {
  expect(methods['invoice.issue'].summary).toContain(`${ackWaitMs / 1_000} s`);
});
