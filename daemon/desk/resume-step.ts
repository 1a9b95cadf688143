// Owns: one step of a resumption, as the desk asks it of the holder: the step, and the answer of the kind that belongs to it.
import type { Holder, ResumeAnswer, ResumeStep } from '#holder/holder.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

/** Throws what the holder throws; internal for an answer of another kind. */
export async function askHolder<Kind extends ResumeAnswer['kind']>(
  holder: Holder,
  step: ResumeStep,
  expected: Kind,
): Promise<Extract<ResumeAnswer, { kind: Kind }>> {
  const answer = await holder.resume(step);
  const isExpected = (given: ResumeAnswer): given is Extract<ResumeAnswer, { kind: Kind }> => given.kind === expected;
  if (!isExpected(answer)) throw new UkeyError('internal', `the holder answered ${answer.kind} to ${step.kind}`);
  return answer;
}
