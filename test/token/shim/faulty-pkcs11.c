// Owns: a PKCS#11 module for tests that stands before a real one and fails as a file tells it, while the program runs.
// Environment: FAULTY_MODULE: the real module's path. FAULTY_RULES: the file of rules; its first line is a generation number, each further one
//   C_Function action value skip times every
// The rule acts on that function's calls: `skip` of them pass first, then `times` are hit (0: all), and of those only each `every`th (0: each).
// Actions: ckr V (answers V; what a real C_Sign began is ended), empty and wrong (C_Sign: OK, but no signature or a spoilt one), sleep V (ms, then the real call),
// segv, close (closes the session beneath the call), gone (C_GetSlotList: OK, no slot), flags V (C_GetTokenInfo: sets flags).
// FAULTY_RULES with `.state` added: u32 generation, then how often each rule of this generation was asked (64), then how often each function was
// called in all (68). It is shared memory: it survives the process that a rule kills.
// Assumes what Linux's calling conventions give: every argument is a word, and a function may be called with more of them than it takes.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FUNCTIONS 68
#define RULES 64
typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);
struct list { unsigned char major, minor; function of[FUNCTIONS]; };
struct state { uint32_t generation, asked[RULES], called[FUNCTIONS]; };

// PKCS#11 v2.40 §5, in the order of CK_FUNCTION_LIST.
static const char *const names[FUNCTIONS] = {
  "C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo",
  "C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN", "C_OpenSession", "C_CloseSession",
  "C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState", "C_SetOperationState", "C_Login", "C_Logout", "C_CreateObject",
  "C_CopyObject", "C_DestroyObject", "C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue", "C_FindObjectsInit",
  "C_FindObjects", "C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal", "C_DecryptInit",
  "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestKey", "C_DigestFinal",
  "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecoverInit", "C_SignRecover", "C_VerifyInit", "C_Verify",
  "C_VerifyUpdate", "C_VerifyFinal", "C_VerifyRecoverInit", "C_VerifyRecover", "C_DigestEncryptUpdate", "C_DecryptDigestUpdate",
  "C_SignEncryptUpdate", "C_DecryptVerifyUpdate", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey",
  "C_SeedRandom", "C_GenerateRandom", "C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
};
enum { GetFunctionList = 3, GetSlotList = 4, GetTokenInfo = 6, CloseSession = 13, Decrypt = 34, Sign = 43 };

static struct list *real;
static struct list shown;
static struct state *state;

static void die(const char *what) {
  fprintf(stderr, "faulty-pkcs11: %s\n", what);
  abort();
}

static void open_state(const char *rules) {
  char path[4096];
  snprintf(path, sizeof path, "%s.state", rules);
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, sizeof *state) != 0) die("the state file cannot be made");
  state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (state == MAP_FAILED) die("the state file cannot be mapped");
  close(fd);
}

static void wait_ms(word ms) {
  struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
  while (nanosleep(&left, &left) != 0);
}

// Whether a rule hits this call of function `at`; then its action and value.
static int hit(int at, char *action, word *value) {
  FILE *file = fopen(getenv("FAULTY_RULES"), "re");
  if (file == NULL) return 0;
  unsigned generation = 0;
  char line[256], name[64];
  int found = 0;
  if (fgets(line, sizeof line, file) != NULL && sscanf(line, "%u", &generation) == 1 && generation != state->generation) {
    memset(state->asked, 0, sizeof state->asked);
    state->generation = generation;
  }
  for (int rule = 0; rule < RULES && fgets(line, sizeof line, file) != NULL; rule++) {
    unsigned skip, times, every;
    if (sscanf(line, "%63s %15s %li %u %u %u", name, action, (long *)value, &skip, &times, &every) != 6) continue;
    if (strcmp(name, names[at]) != 0) continue;
    unsigned asked = state->asked[rule]++;
    if (asked < skip || (times != 0 && asked >= skip + times)) continue;
    if (every != 0 && (asked - skip + 1) % every != 0) continue;
    found = 1;
    break;
  }
  fclose(file);
  return found;
}

static word gate(int at, word a, word b, word c, word d, word e, word f, word g, word h) {
  char action[16];
  word value = 0;
  state->called[at]++;
  function call = real->of[at];
  if (!hit(at, action, &value)) return call(a, b, c, d, e, f, g, h);
  if (strcmp(action, "ckr") == 0) {
    if (at == Sign || at == Decrypt) call(a, b, c, d, e, f, g, h);
    return value;
  }
  if (strcmp(action, "sleep") == 0) wait_ms(value);
  if (strcmp(action, "segv") == 0) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
  }
  if (strcmp(action, "close") == 0) real->of[CloseSession](a, 0, 0, 0, 0, 0, 0, 0);
  if (strcmp(action, "gone") == 0 && at == GetSlotList) {
    *(word *)c = 0;
    return 0;
  }
  word answer = call(a, b, c, d, e, f, g, h);
  if (answer != 0) return answer;
  // C_Sign(session, data, length, signature, length of it)
  if (at == Sign && strcmp(action, "empty") == 0) *(word *)e = 0;
  if (at == Sign && strcmp(action, "wrong") == 0 && d != 0) ((unsigned char *)d)[5] ^= 1;
  // CK_TOKEN_INFO: label, manufacturer, model, serial (32 + 32 + 16 + 16), then flags.
  if (at == GetTokenInfo && strcmp(action, "flags") == 0) *(word *)(b + 96) |= value;
  return answer;
}

#define WRAPPER(at) \
  static word wrapped_##at(word a, word b, word c, word d, word e, word f, word g, word h) { return gate(at, a, b, c, d, e, f, g, h); }
#define EACH(_) \
  _(0) _(1) _(2) _(4) _(5) _(6) _(7) _(8) _(9) _(10) _(11) _(12) _(13) _(14) _(15) _(16) _(17) _(18) _(19) _(20) _(21) _(22) _(23) \
  _(24) _(25) _(26) _(27) _(28) _(29) _(30) _(31) _(32) _(33) _(34) _(35) _(36) _(37) _(38) _(39) _(40) _(41) _(42) _(43) _(44) _(45) \
  _(46) _(47) _(48) _(49) _(50) _(51) _(52) _(53) _(54) _(55) _(56) _(57) _(58) _(59) _(60) _(61) _(62) _(63) _(64) _(65) _(66) _(67)
EACH(WRAPPER)

__attribute__((visibility("default"))) word C_GetFunctionList(struct list **list) {
  if (real == NULL) {
    const char *module = getenv("FAULTY_MODULE"), *rules = getenv("FAULTY_RULES");
    if (module == NULL || rules == NULL) die("FAULTY_MODULE and FAULTY_RULES are needed");
    void *library = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) die(dlerror());
    word (*get)(struct list **) = (word (*)(struct list **))dlsym(library, "C_GetFunctionList");
    if (get == NULL || get(&real) != 0) die("the real module gives no functions");
    open_state(rules);
    shown = *real;
    shown.of[GetFunctionList] = (function)(void *)C_GetFunctionList;
#define ENTER(at) shown.of[at] = wrapped_##at;
    EACH(ENTER)
  }
  *list = &shown;
  return 0;
}
