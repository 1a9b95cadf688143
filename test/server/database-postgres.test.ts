// The PostgreSQL implementation: the suite of every database.

import { openPostgresDatabase } from '#server/database-postgres.ts';
import { noLog } from '#server/log.ts';
import { databaseSuite } from '#test/suites/database-suite.ts';
import { describePostgres } from '#test/support/postgres.ts';

describePostgres('PostgreSQL', (server) => {
  databaseSuite('PostgreSQL', async () => {
    const url = server().newDatabase();
    return { open: async () => await openPostgresDatabase(url, noLog), remove: async () => undefined };
  });
});
