// Uploads over PostgreSQL, and over PostgreSQL that stops meanwhile.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openPostgresDatabase } from '#server/database-postgres.ts';
import { noLog } from '#server/log.ts';
import { uploadSuite } from '#test/suites/upload-suite.ts';
import { describePostgres } from '#test/support/postgres.ts';
import { ServerRig } from '#test/support/server-rig.ts';

describePostgres('uploads over PostgreSQL', (server) => {
  uploadSuite({
    start: async () => await ServerRig.start({ databaseUrl: server().newDatabase() }),
    openDatabase: async ({ directory }) => await openPostgresDatabase(readFileSync(join(directory, 'database-url'), 'utf8').trim(), noLog),
  });
});
