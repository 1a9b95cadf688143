// Owns: the entry of the process in which a module is probed: one order in, stages and one report out. probing.ts starts it.
// Invariants: takes no arguments; the PIN comes by its pipe and is overwritten; ends with the channel.
import { asUkeyError } from '#ipc-schema/errors.ts';
import { loadModule } from '#token/pkcs11.ts';
import { probeModule } from '#token/probe.ts';
import { encodeError } from './messages.ts';
import { receivePins } from './pin-pipe.ts';
import { type FromProbe, type ProbeOrder, pinsOf } from './probing.ts';

const tell = (message: FromProbe): void => void process.send?.(message, undefined, undefined, () => undefined);

process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
process.once('message', (order: ProbeOrder) => {
  try {
    receivePins(pinsOf(order));
    tell({ kind: 'stage', what: 'loading the module' });
    const module = loadModule(order.modulePath, order.moduleParameters === null ? {} : { moduleParameters: order.moduleParameters });
    tell({ kind: 'report', report: probeModule(module, order, (what) => tell({ kind: 'stage', what })) });
  } catch (thrown) {
    tell({ kind: 'refused', error: encodeError(asUkeyError(thrown, 'token-failed')) });
  } finally {
    order.pin?.fill(0);
  }
});
