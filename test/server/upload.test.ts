// Uploads over SQLite.
import { join } from 'node:path';
import { openSqliteDatabase } from '#server/database-sqlite.ts';
import { uploadSuite } from '#test/suites/upload-suite.ts';
import { ServerRig } from '#test/support/server-rig.ts';

uploadSuite({
  start: async () => await ServerRig.start(),
  openDatabase: async ({ directory }) => openSqliteDatabase(join(directory, 'tickets.db')),
});
