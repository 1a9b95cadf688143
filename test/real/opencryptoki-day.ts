// Owns: a whole service over a token of OpenCryptoki, told as one JSON line; runs inside opencryptoki-world.sh. The module's path is the only argument.
import { liveADay } from '#test/support/service-life.ts';

const [modulePath = ''] = process.argv.slice(2);
/** A blank token has one: C_InitToken takes no other. */
const makersSoPin = '87654321';
const token = [`module = ${JSON.stringify(modulePath)}`, 'label = "rig"'];
console.log(JSON.stringify(await liveADay(token, { soPin: makersSoPin })));
