/* The peer: SQLCipher as an application would use it for the same invoices. WAL, synchronous FULL, one transaction per invoice.
 * peer DATABASE BODIES COUNT   (BODIES: each body as 4 bytes of length, little endian, then its bytes)
 * Prints: seconds, file bytes, WAL bytes at its largest, bytes given to write calls, library version. */
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static void must(int ok, sqlite3 *db, const char *what) {
  if (ok) return;
  fprintf(stderr, "%s: %s\n", what, db ? sqlite3_errmsg(db) : "");
  exit(1);
}

static void run(sqlite3 *db, const char *sql) { must(sqlite3_exec(db, sql, 0, 0, 0) == SQLITE_OK, db, sql); }

static long long size_of(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 ? (long long)st.st_size : 0;
}

static long long written(void) {
  FILE *io = fopen("/proc/self/io", "r");
  long long bytes = 0;
  char line[128];
  while (io && fgets(line, sizeof line, io)) sscanf(line, "wchar: %lld", &bytes);
  if (io) fclose(io);
  return bytes;
}

int main(int argc, char **argv) {
  must(argc == 4, 0, "usage: peer DATABASE BODIES COUNT");
  FILE *in = fopen(argv[2], "rb");
  must(in != 0, 0, "bodies");
  static char *bodies[1 << 16];
  static int lengths[1 << 16];
  int known = 0;
  for (uint32_t length; known < 1 << 16 && fread(&length, 4, 1, in) == 1; known++) {
    bodies[known] = malloc(length);
    lengths[known] = (int)length;
    must(fread(bodies[known], 1, length, in) == length, 0, "bodies");
  }
  must(known > 0, 0, "no bodies");
  sqlite3 *db;
  must(sqlite3_open(argv[1], &db) == SQLITE_OK, db, "open");
  run(db, "PRAGMA key = \"x'2DD29CA851E7B56E4697B0E1F08507293D761A05CE4D1B628663F411A8086D99'\"");
  run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  run(db, "CREATE TABLE invoice (sequence INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, body TEXT NOT NULL)");
  sqlite3_stmt *insert;
  must(sqlite3_prepare_v2(db, "INSERT INTO invoice (key, body) VALUES (?, ?)", -1, &insert, 0) == SQLITE_OK, db, "prepare");
  char wal[4096], key[32];
  snprintf(wal, sizeof wal, "%s-wal", argv[1]);
  long long before = written();
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  int count = atoi(argv[3]);
  for (int at = 0; at < count; at++) {
    snprintf(key, sizeof key, "key-%d", at);
    sqlite3_bind_text(insert, 1, key, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(insert, 2, bodies[at % known], lengths[at % known], SQLITE_STATIC);
    must(sqlite3_step(insert) == SQLITE_DONE, db, "insert"); /* autocommit: durable when this returns */
    sqlite3_reset(insert);
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  double seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
  long long wal_bytes = size_of(wal);
  run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
  printf("%.6f %lld %lld %lld %s\n", seconds, size_of(argv[1]), wal_bytes, written() - before, sqlite3_libversion());
  sqlite3_finalize(insert);
  sqlite3_close(db);
  return 0;
}
