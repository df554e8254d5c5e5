/*
 * What a machine does that goes on from memory, before anything else of it runs: new randomness, the clock, and for one that
 * is not the machine it was, no connection, address, name or key of that one. It is acknowledged when all of it is done, and
 * nothing is thawed before; whatever fails leaves it frozen, and the host ends it.
 */
#include "agent.h"
#include "hooks.h"
#include "identity.h"
#include "kernel.h"
#include "netlink.h"
#include "precedence.h"
#include "sockets.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "eth0"
#define MIN_SEED_BYTES 32
#define MAX_SEED_BYTES 512
/* a clock that is less wrong is left alone: stepping one disturbs whoever measures */
#define CLOCK_TOLERANCE_NS 50000000ll
#define MAX_ADDRESSES 32
/* what is done after a wake waits so long */
#ifndef REST_LEAST_MS
#define REST_LEAST_MS 0
#endif
#ifndef REST_MOST_MS
#define REST_MOST_MS 1000
#endif
#ifndef REST_TIMES
#define REST_TIMES 4
#endif
/* while it is held, or is about to be: what was frozen must not be let go by a moment that came due meanwhile */
#define REST_HELD_MS 100

enum mode { NO_MODE, SAME, NEW, AGAIN };

struct request {
  char *generation, *hostname, *address, *gateway, *machine_id, *boot_id, *old_address;
  const uint8_t *seed, *mac;
  size_t seed_length;
  int64_t wall_clock;
  uint32_t mtu;
  enum mode mode;
  const char *malformed;
};

static char *generation;
/* what was done in that generation, for a host that asks again */
static struct buffer report;

const char *wake_generation(void) { return generation; }

static int is_once(char **text, const struct field *field) {
  if (*text) return 0;
  *text = field_text(field);
  return *text != NULL;
}

static enum mode mode_of(const struct field *field) {
  if (field->length == 4 && memcmp(field->bytes, "same", 4) == 0) return SAME;
  if (field->length == 3 && memcmp(field->bytes, "new", 3) == 0) return NEW;
  if (field->length == 5 && memcmp(field->bytes, "again", 5) == 0) return AGAIN;
  return NO_MODE;
}

static const char *read_field(struct request *request, const struct field *field) {
  switch (field->tag) {
  case F_GENERATION:
    return is_once(&request->generation, field) ? NULL : "the generation";
  case F_HOSTNAME:
    return field->length > 0 && field->length < 64 && is_once(&request->hostname, field) ? NULL : "the name";
  case F_ADDRESS:
    return is_once(&request->address, field) ? NULL : "the address";
  case F_GATEWAY:
    return is_once(&request->gateway, field) ? NULL : "the gateway";
  case F_OLD_ADDRESS:
    return is_once(&request->old_address, field) ? NULL : "the former address";
  case F_MACHINE_ID:
    return field->length == 32 && is_once(&request->machine_id, field) ? NULL : "the machine id";
  case F_BOOT_ID:
    return field->length == 36 && is_once(&request->boot_id, field) ? NULL : "the boot id";
  case F_SEED:
    request->seed = field->bytes;
    request->seed_length = field->length;
    return field->length >= MIN_SEED_BYTES && field->length <= MAX_SEED_BYTES ? NULL : "the seed";
  case F_WALL_CLOCK:
    if (field->length != 8) return "the time";
    memcpy(&request->wall_clock, field->bytes, 8);
    return request->wall_clock > 0 ? NULL : "the time";
  case F_MODE:
    request->mode = mode_of(field);
    return request->mode != NO_MODE ? NULL : "the mode";
  case F_MTU:
    return field_number(field, &request->mtu) ? NULL : "the MTU";
  case F_MAC:
    request->mac = field->bytes;
    return field->length == 6 ? NULL : "the hardware address";
  default:
    return NULL;
  }
}

static void read_request(struct request *request, const uint8_t *at, size_t left) {
  struct field field;
  int more;
  while (!request->malformed && (more = next_field(&at, &left, &field)) != 0)
    request->malformed = more < 0 ? "its form" : read_field(request, &field);
  if (request->malformed) return;
  if (!request->generation || !*request->generation) request->malformed = "the generation";
  else if (!request->seed) request->malformed = "the seed";
  else if (!request->wall_clock) request->malformed = "the time";
  else if (request->mode == NO_MODE) request->malformed = "the mode";
  else if (!request->address != !request->gateway) request->malformed = "the address without the gateway";
  else if (request->mode == NEW && (!request->address || !request->hostname)) request->malformed = "who it is";
}

static void free_request(struct request *request) {
  char *texts[] = {request->generation, request->hostname, request->address,    request->gateway,
                   request->machine_id, request->boot_id,  request->old_address};
  for (size_t at = 0; at < sizeof texts / sizeof *texts; at++) free(texts[at]);
}

static void did(const char *what) { add_text(&report, F_DID, what); }

static void did_count(const char *what, int count) {
  char text[64];
  snprintf(text, sizeof text, "%s=%d", what, count);
  did(text);
}

/* Credited, and used from now on: mixing it in would leave two copies of one machine with the same numbers for minutes. */
static int reseed(const struct request *request) {
#ifdef SKIP_RESEED /* for the test that must fail then */
  (void)request;
  did("seed");
  return 0;
#else
  struct {
    int bits, length;
    uint8_t bytes[MAX_SEED_BYTES];
  } entropy = {(int)request->seed_length * 8, (int)request->seed_length, {0}};
  memcpy(entropy.bytes, request->seed, request->seed_length);
  int device = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  if (device < 0) return -1;
  int result = ioctl(device, RNDADDENTROPY, &entropy);
  if (result == 0) result = ioctl(device, RNDRESEEDCRNG, 0);
  int failed = errno;
  memset(&entropy, 0, sizeof entropy);
  close(device);
  if (result == 0) did("seed");
  errno = failed;
  return result;
#endif
}

static int set_clock(const struct request *request) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  int64_t wrong = request->wall_clock - ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
  if (wrong <= CLOCK_TOLERANCE_NS && wrong >= -CLOCK_TOLERANCE_NS) {
    did("clock=0");
    return 0;
  }
  now.tv_sec = request->wall_clock / 1000000000;
  now.tv_nsec = request->wall_clock % 1000000000;
#ifndef FOR_TESTS /* which run on a machine whose clock is not theirs */
  if (clock_settime(CLOCK_REALTIME, &now) != 0) return -1;
#endif
  char text[64];
  snprintf(text, sizeof text, "clock=%lld", (long long)(wrong / 1000000));
  did(text);
  return 0;
}

static int end_connections(const struct request *request) {
  struct ip_address addresses[MAX_ADDRESSES];
  int count = list_addresses(DEVICE, addresses, MAX_ADDRESSES - 1);
  if (count < 0) return -1;
  if (request->old_address && inet_pton(AF_INET, request->old_address, addresses[count].bytes) == 1)
    addresses[count++].family = AF_INET;
  int ended = destroy_connections(addresses, count);
  if (ended < 0) return -1;
  did_count("connections", ended);
  did_count("ssh-sessions", end_ssh_sessions());
  return 0;
}

/* @returns NULL, or what did not work, with errno */
static const char *change_network(const struct request *request) {
  struct new_link link = {.device = DEVICE, .mac = request->mac, .mtu = request->mtu};
  errno = EINVAL;
  if (inet_pton(AF_INET, request->address, link.address) != 1) return "the address";
  if (inet_pton(AF_INET, request->gateway, link.gateway) != 1) return "the gateway";
  const char *failed = change_link(&link);
  if (!failed) did("network");
  return failed;
}

/* @returns NULL, or what did not work, with errno */
static const char *change_identity(const struct request *request, const uint8_t *at, size_t left) {
  struct field field;
  int files = 0, keys = 0;
  if (request->hostname) {
    if (set_hostname(request->hostname) < 0) return "the name";
    did("hostname");
  }
  while (next_field(&at, &left, &field) > 0) {
    if (field.tag == F_FILE) {
      if (place_file(&field) < 0) return "a file";
      files++;
    } else if (field.tag == F_AUTHORIZED_KEY) {
      char *key = field_text(&field);
      int result = key ? add_authorized_key(key) : -1;
      free(key);
      if (result < 0) return "the keys that may log in";
      keys++;
    }
  }
  if (files > 0) did_count("files", files);
  if (keys > 0) did_count("authorized-keys", keys);
  int removed = remove_old_host_keys();
  if (removed > 0) did_count("old-host-keys", removed);
  if (request->machine_id) {
    if (set_machine_id(request->machine_id) < 0) return "the machine id";
    did("machine-id");
  }
  if (request->boot_id) {
    if (set_boot_id(request->boot_id) < 0) return "the boot id";
    did("boot-id");
  }
  return NULL;
}

/* @returns NULL, or what did not work, with errno */
static const char *perform(const struct request *request, const uint8_t *payload, size_t length) {
  if (reseed(request) < 0) return "the random numbers";
  /* these wait for the kernel, and whoever hears of the new time would go first */
  if (request->mode != SAME && end_connections(request) < 0) return "the connections";
  if (set_clock(request) < 0) return "the clock";
  const char *failed = request->address ? change_network(request) : NULL;
  if (!failed) failed = change_identity(request, payload, length);
  if (failed) return failed;
  if (request->mode != SAME) {
    int seeds = renew_random_seeds();
    if (seeds < 0) return "the random seed of the next boot";
    did_count("random-seeds", seeds);
  }
  /* they stand still: the signal is the first thing they see when they do not any more */
  if (request->mode == NEW) {
    hold_ssh_servers();
    did_count("ssh-servers", reload_ssh_servers());
  }
  return NULL;
}

/* What can wait until whoever woke the guest has had it for some times as long as the wake took: nothing where that is fast. */
static struct timer rest;
/* it was due in the generation before, and came to nothing there */
static int owed;

static void do_rest(void) {
  static const char *const modes[] = {"new", NULL};
  if (is_held()) {
    set_timer(&rest, REST_HELD_MS, do_rest);
    return;
  }
  let_ssh_servers_go();
  run_hooks(modes, generation ? generation : "");
}

void wake(struct link *link, uint32_t channel, const uint8_t *payload, size_t length) {
  struct request request = {0};
  int64_t began = now_ms();
  read_request(&request, payload, length);
  if (request.malformed) {
    send_failure(link, channel, "the request to wake is malformed: %s", request.malformed);
    free_request(&request);
    return;
  }
  if (generation && strcmp(generation, request.generation) == 0) {
    send_fields(link, DONE, channel, &report);
    thaw(NULL);
    free_request(&request);
    return;
  }
  buffer_clear(&report);
  free(generation);
  generation = NULL;
  if (rest.due) owed = 1;
  stop_timer(&rest);
  add_text(&report, F_GENERATION, request.generation);
  const char *failed = perform(&request, payload, length);
  if (failed) {
    send_failure(link, channel, "%s could not be set: %s", failed, strerror(errno));
    buffer_clear(&report);
    free_request(&request);
    return;
  }
  generation = request.generation;
  request.generation = NULL;
  int64_t pause = REST_TIMES * (now_ms() - began);
  if (pause > REST_MOST_MS) pause = REST_MOST_MS;
  let_commands_go_first(pause);
  send_fields(link, DONE, channel, &report);
  thaw(NULL);
  if (request.mode == NEW) {
    owed = 0;
    set_timer(&rest, pause < REST_LEAST_MS ? REST_LEAST_MS : pause, do_rest);
  } else {
    const char *mode = request.mode == SAME ? "same" : "again";
    const char *const modes[] = {owed ? "new" : mode, owed ? mode : NULL, NULL};
    if (owed) let_ssh_servers_go();
    owed = 0;
    run_hooks(modes, generation);
  }
  free_request(&request);
}
