/* Owns: storage that can lose power, as a FUSE file system: one image per name, all on one supply, and a file `control`.
 * Usage: power-device <mount point> <image bytes> <name>...   Ends, and unmounts, on SIGTERM or when its starter dies.
 * Model: a write is seen by readers at once; its sectors become durable at fsync. A cut keeps a random subset of the sectors
 * written since, each write of a sector on its own, so that an older one may outlive a newer one. A sector is never torn itself.
 * Commands, one per write to `control` (EINVAL: not understood); reading it answers `ops=.. pending=.. cut=.. fired=..`:
 *   mode <name> honest|lie|cached   lie: fsync says yes and makes nothing durable; cached: the kernel keeps what it has read and
 *                                   written, from the next opening on
 *   arm <nth> <seed> <pid>          cut at the nth write or fsync from now; the pid gets SIGKILL, everything after is EIO
 *   cut <seed> <pid>                cut now (pid 0: nobody)
 *   on                              power is back: only what is durable is there
 *   fault <name> write|sync <nth> <seed> eio|enospc|short|<ms>   once, at the nth from now. A failed fsync drops what it did not
 *                                   write, and the next one says yes; what it dropped stays in the kernel's cache, where it can be
 *                                   read until that is dropped, as on any file system of Linux. short takes half; <ms> is slow
 *   clear                           no faults, not armed
 * Must not: be fast, or keep anything after it ends. */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { sector_bytes = 512, images_max = 4, faults_max = 16, name_max_bytes = 32 };

struct image {
  char name[name_max_bytes];
  int lies, is_cached;
  uint8_t *current, *durable;
};
struct pending {
  int image;
  off_t sector;
  uint8_t bytes[sector_bytes];
};
struct fault {
  int image, is_sync, error, is_short;
  long left, slow_ms;
  uint64_t seed;
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct image images[images_max];
static int image_count;
static off_t image_bytes;
static struct pending *pending;
static size_t pending_count, pending_room;
static struct fault faults[faults_max];
static int fault_count, is_cut;
static long ops, fired, armed_left;
static pid_t victim;
static uint64_t chance;

/* splitmix64: numbers in [0, 1) */
static double draw(void) {
  chance += 0x9e3779b97f4a7c15u;
  uint64_t z = chance;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

static int image_of(const char *name) {
  for (int at = 0; at < image_count; at++)
    if (strcmp(images[at].name, name) == 0) return at;
  return -1;
}

/* Makes each pending sector of the image (-1: of all) durable with this probability; none of them is pending afterwards. */
static void settle(int image, double share) {
  size_t kept = 0;
  for (size_t at = 0; at < pending_count; at++) {
    struct pending *each = &pending[at];
    if (image >= 0 && each->image != image) {
      if (kept != at) pending[kept] = *each;
      kept++;
    } else if (share >= 1 || draw() < share) {
      memcpy(images[each->image].durable + each->sector * sector_bytes, each->bytes, sector_bytes);
    }
  }
  pending_count = kept;
}

static void cut(void) {
  is_cut = 1;
  armed_left = 0;
  if (victim > 0) kill(victim, SIGKILL);
}

/* Bytes that a write changes are pending by whole sectors. */
static int remember(int image, off_t from, size_t bytes) {
  for (off_t sector = from / sector_bytes; sector * sector_bytes < from + (off_t)bytes; sector++) {
    if (pending_count == pending_room) {
      size_t room = pending_room ? pending_room * 2 : 4096;
      struct pending *more = realloc(pending, room * sizeof *pending);
      if (!more) return -ENOMEM;
      pending = more;
      pending_room = room;
    }
    struct pending *each = &pending[pending_count++];
    each->image = image;
    each->sector = sector;
    memcpy(each->bytes, images[image].current + sector * sector_bytes, sector_bytes);
  }
  return 0;
}

/* The fault that is due at this operation, if any; it is used up. */
static struct fault due(int image, int is_sync) {
  struct fault none = {0};
  for (int at = 0; at < fault_count; at++) {
    if (faults[at].image != image || faults[at].is_sync != is_sync || --faults[at].left > 0) continue;
    struct fault it = faults[at];
    faults[at] = faults[--fault_count];
    fired++;
    return it;
  }
  return none;
}

static void pause_ms(long ms) {
  struct timespec span = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&span, &span) < 0 && errno == EINTR) continue;
}

static int command(const char *text) {
  char name[name_max_bytes], what[16], how[16];
  unsigned long long seed;
  long nth, pid;
  if (sscanf(text, "mode %31s %15s", name, how) == 2) {
    int image = image_of(name);
    if (image < 0) return -EINVAL;
    if (strcmp(how, "cached") == 0) images[image].is_cached = 1;
    else images[image].lies = strcmp(how, "lie") == 0;
    return 0;
  }
  if (sscanf(text, "arm %ld %llu %ld", &nth, &seed, &pid) == 3 && nth > 0) {
    armed_left = nth;
    chance = seed;
    victim = (pid_t)pid;
    return 0;
  }
  if (sscanf(text, "cut %llu %ld", &seed, &pid) == 2) {
    chance = seed;
    victim = (pid_t)pid;
    cut();
    return 0;
  }
  if (sscanf(text, "fault %31s %15s %ld %llu %15s", name, what, &nth, &seed, how) == 5 && nth > 0) {
    struct fault it = {.image = image_of(name), .is_sync = strcmp(what, "sync") == 0, .left = nth, .seed = seed};
    if (it.image < 0 || fault_count == faults_max) return -EINVAL;
    if (strcmp(how, "eio") == 0) it.error = EIO;
    else if (strcmp(how, "enospc") == 0) it.error = ENOSPC;
    else if (strcmp(how, "short") == 0) it.is_short = 1;
    else it.slow_ms = atol(how);
    faults[fault_count++] = it;
    return 0;
  }
  if (strncmp(text, "on", 2) == 0) {
    double share = (double)(int)(draw() * 5) / 4; /* none, a quarter, half, three quarters, all */
    settle(-1, share);
    for (int at = 0; at < image_count; at++) memcpy(images[at].current, images[at].durable, (size_t)image_bytes);
    is_cut = 0;
    victim = 0;
    return 0;
  }
  if (strncmp(text, "clear", 5) == 0) {
    fault_count = 0;
    armed_left = 0;
    return 0;
  }
  return -EINVAL;
}

static int on_getattr(const char *path, struct stat *st, struct fuse_file_info *fi) {
  (void)fi;
  memset(st, 0, sizeof *st);
  st->st_uid = getuid();
  st->st_gid = getgid();
  st->st_nlink = 1;
  if (strcmp(path, "/") == 0) {
    st->st_mode = S_IFDIR | 0700;
    return 0;
  }
  st->st_mode = S_IFREG | 0600;
  if (strcmp(path, "/control") == 0) return 0;
  if (image_of(path + 1) < 0) return -ENOENT;
  st->st_size = image_bytes;
  return 0;
}

static int on_readdir(const char *path, void *list, fuse_fill_dir_t fill, off_t at, struct fuse_file_info *fi, enum fuse_readdir_flags flags) {
  (void)at, (void)fi, (void)flags;
  if (strcmp(path, "/") != 0) return -ENOENT;
  fill(list, "control", NULL, 0, 0);
  for (int image = 0; image < image_count; image++) fill(list, images[image].name, NULL, 0, 0);
  return 0;
}

/* Nothing is cached in between, unless it was asked for: every read and write of the program is one of ours. */
static int on_open(const char *path, struct fuse_file_info *fi) {
  fi->fh = strcmp(path, "/control") == 0 ? images_max : (uint64_t)image_of(path + 1);
  fi->keep_cache = fi->fh < images_max && images[fi->fh].is_cached;
  fi->direct_io = !fi->keep_cache;
  return 0;
}

static int on_truncate(const char *path, off_t size, struct fuse_file_info *fi) {
  (void)size, (void)fi;
  return strcmp(path, "/control") == 0 ? 0 : -EPERM;
}

static int on_read(const char *path, char *out, size_t bytes, off_t from, struct fuse_file_info *fi) {
  (void)path;
  int result;
  pthread_mutex_lock(&turn);
  if (fi->fh == images_max) {
    char text[128];
    int length = snprintf(text, sizeof text, "ops=%ld pending=%zu cut=%d fired=%ld\n", ops, pending_count, is_cut, fired);
    result = from >= length ? 0 : (int)(bytes < (size_t)(length - from) ? bytes : (size_t)(length - from));
    memcpy(out, text + from, (size_t)result);
  } else if (is_cut) {
    result = -EIO;
  } else {
    if (from >= image_bytes) bytes = 0;
    else if (from + (off_t)bytes > image_bytes) bytes = (size_t)(image_bytes - from);
    memcpy(out, images[fi->fh].current + from, bytes);
    result = (int)bytes;
  }
  pthread_mutex_unlock(&turn);
  return result;
}

static int write_image(int image, const char *in, size_t bytes, off_t from, long *slow_ms) {
  if (is_cut) return -EIO;
  if (from >= image_bytes) return -ENOSPC;
  if (from + (off_t)bytes > image_bytes) bytes = (size_t)(image_bytes - from);
  ops++;
  struct fault fault = due(image, 0);
  *slow_ms = fault.slow_ms;
  if (fault.error) return -fault.error;
  if (fault.is_short && bytes > 1) bytes /= 2;
  memcpy(images[image].current + from, in, bytes);
  int failed = remember(image, from, bytes);
  if (failed) return failed;
  if (armed_left > 0 && --armed_left == 0) {
    cut();
    return -EIO;
  }
  return (int)bytes;
}

static int on_write(const char *path, const char *in, size_t bytes, off_t from, struct fuse_file_info *fi) {
  (void)path;
  long slow_ms = 0;
  int result;
  pthread_mutex_lock(&turn);
  if (fi->fh == images_max) {
    char text[128] = {0};
    memcpy(text, in, bytes < sizeof text - 1 ? bytes : sizeof text - 1);
    int failed = command(text);
    result = failed ? failed : (int)bytes;
  } else {
    result = write_image((int)fi->fh, in, bytes, from, &slow_ms);
  }
  pthread_mutex_unlock(&turn);
  pause_ms(slow_ms);
  return result;
}

static int sync_image(int image, long *slow_ms) {
  if (is_cut) return -EIO;
  ops++;
  struct fault fault = due(image, 1);
  *slow_ms = fault.slow_ms;
  if (fault.error) {
    chance = fault.seed;
    settle(image, 0.5);
    memcpy(images[image].current, images[image].durable, (size_t)image_bytes);
    return -fault.error;
  }
  if (armed_left > 0 && --armed_left == 0) {
    cut();
    return -EIO;
  }
  if (!images[image].lies) settle(image, 1);
  return 0;
}

static int on_fsync(const char *path, int datasync, struct fuse_file_info *fi) {
  (void)path, (void)datasync;
  if (fi->fh == images_max) return 0;
  long slow_ms = 0;
  pthread_mutex_lock(&turn);
  int result = sync_image((int)fi->fh, &slow_ms);
  pthread_mutex_unlock(&turn);
  pause_ms(slow_ms);
  return result;
}

/* Only whoever reads decides when the kernel's cache is dropped. */
static void *on_init(struct fuse_conn_info *conn, struct fuse_config *config) {
  (void)config;
  conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
  return NULL;
}

static const struct fuse_operations operations = {
    .init = on_init,
    .getattr = on_getattr,
    .readdir = on_readdir,
    .open = on_open,
    .truncate = on_truncate,
    .read = on_read,
    .write = on_write,
    .fsync = on_fsync,
};

int main(int count, char **words) {
  if (count < 4 || count - 3 > images_max) return 64;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  image_bytes = atoll(words[2]);
  if (image_bytes <= 0 || image_bytes % sector_bytes != 0) return 64;
  for (int at = 3; at < count; at++) {
    struct image *image = &images[image_count++];
    snprintf(image->name, sizeof image->name, "%s", words[at]);
    image->current = calloc(1, (size_t)image_bytes);
    image->durable = calloc(1, (size_t)image_bytes);
    if (!image->current || !image->durable) return 71;
  }
  char *fuse_words[] = {words[0], "-f", words[1], NULL};
  return fuse_main(3, fuse_words, &operations, NULL);
}
