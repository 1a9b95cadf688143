// Owns: a world from its claim to its end, for the commands that need one.
// Invariants: the control socket answers from before the start until the end; a stop that comes while it starts ends it at once;
// whatever happens, nothing of it runs afterwards.
import type { StopSignal } from '#ctl/stop-signal.ts';
import { openControl } from './control.ts';
import { World, type WorldOptions } from './world.ts';

/** Runs `use` in a world that a till can issue in; not at all when `stop` came before. */
export async function inWorld(options: WorldOptions, stop: StopSignal, use: (world: World) => Promise<void>): Promise<void> {
  const world = await World.claim(options);
  try {
    const control = await openControl(world, async () => {
      stop.give();
      await world.close();
    });
    try {
      await Promise.race([world.start(), stop.given]);
      if (!stop.isGiven()) await use(world);
    } catch (thrown) {
      // What fails because it was stopped is no failure.
      if (!stop.isGiven()) throw thrown;
    } finally {
      control.close();
    }
  } finally {
    await world.close();
  }
}
