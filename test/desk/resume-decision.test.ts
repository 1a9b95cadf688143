import { expect, test } from 'vitest';
import { decideResume } from '#desk/resume-decision.ts';

test.each([
  [
    'the server goes on where the FLASH ends',
    { foundBatch: 3, anchoredBatch: 5, serverBatch: 7 },
    { kind: 'adopt', fromBatch: 4, toBatch: 7 },
  ],
  ['a KEY without memory', { foundBatch: 3, anchoredBatch: null, serverBatch: 7 }, { kind: 'adopt', fromBatch: 4, toBatch: 7 }],
  [
    'the server lacks what the KEY has seen',
    { foundBatch: 3, anchoredBatch: 8, serverBatch: 7 },
    { kind: 'lost', lastBatch: 7, knownBatch: 8 },
  ],
  ['the server is behind the FLASH', { foundBatch: 3, anchoredBatch: 8, serverBatch: 1 }, { kind: 'lost', lastBatch: 3, knownBatch: 8 }],
  [
    'the index knows more than both',
    { foundBatch: 3, anchoredBatch: 5, serverBatch: 7, indexBatch: 9, indexWeightyBatch: 8 },
    { kind: 'lost', lastBatch: 7, knownBatch: 9 },
  ],
  [
    'only acknowledgements are behind',
    { foundBatch: 3, anchoredBatch: 8, serverBatch: 7, indexBatch: 8, indexWeightyBatch: 7 },
    { kind: 'adopt', fromBatch: 4, toBatch: 7 },
  ],
  [
    'an index that ends before the KEY proves nothing',
    { foundBatch: 3, anchoredBatch: 9, serverBatch: 7, indexBatch: 8, indexWeightyBatch: 7 },
    { kind: 'lost', lastBatch: 7, knownBatch: 9 },
  ],
  [
    'a later opening without a batch',
    { foundBatch: 3, anchoredBatch: 3, isOpenedSince: true, serverBatch: 3 },
    { kind: 'adopt', fromBatch: 4, toBatch: 3 },
  ],
  [
    'an end that cannot be read, and that nobody knows to be another',
    { foundBatch: 3, anchoredBatch: 3, isEndHidden: true, serverBatch: 3 },
    { kind: 'adopt', fromBatch: 4, toBatch: 3 },
  ],
  [
    'an end that cannot be read, where the index knows of more',
    { foundBatch: 3, anchoredBatch: 3, isEndHidden: true, serverBatch: 3, indexBatch: 4, indexWeightyBatch: 4 },
    { kind: 'lost', lastBatch: 3, knownBatch: 4 },
  ],
  ['all is as new as it can be', { foundBatch: 3, anchoredBatch: 3, serverBatch: 2 }, { kind: 'nothing' }],
])('%s', (_name, facts, decision) => {
  expect(decideResume({ isOpenedSince: false, isEndHidden: false, indexBatch: 0, indexWeightyBatch: 0, ...facts })).toEqual(decision);
});
