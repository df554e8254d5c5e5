/*
 * When the guest has reached its default target: a unit of the initrd's writes that into a file here, for guests whose init
 * says so. `ready-announced` is there from before init began where it will be said, `ready-said` from then on.
 */
#include "agent.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define SAID RUN_DIRECTORY "/ready-said"
#define ANNOUNCED RUN_DIRECTORY "/ready-announced"
#define MAX_WAITING 32
#define MAX_UNITS 64

static struct {
  struct link *link;
  uint32_t channel;
} waiting[MAX_WAITING];
static int waiting_count;
static int inotify = -1;

/* `UPTIME UNIT…`: seconds since the kernel began, and what had failed. */
static void answer(struct link *link, uint32_t channel, char *said) {
  struct buffer fields = {0};
  char *rest = NULL, *word = strtok_r(said, " \n", &rest);
  add_text(&fields, F_STATE, "ready");
  if (word) add_number(&fields, F_UPTIME_MS, (uint32_t)(strtod(word, NULL) * 1000));
  for (int count = 0; count < MAX_UNITS && (word = strtok_r(NULL, " \n", &rest)); count++)
    add_text(&fields, F_NAME, word);
  send_fields(link, DONE, channel, &fields);
  buffer_clear(&fields);
}

static void file_came(void *owner, short seen) {
  (void)owner;
  (void)seen;
  char events[4096], said[4096];
  while (read(inotify, events, sizeof events) > 0) continue;
  if (read_file(SAID, said, sizeof said) < 0) return;
  while (waiting_count > 0) {
    char copy[sizeof said];
    struct link *link = waiting[--waiting_count].link;
    strcpy(copy, said);
    answer(link, waiting[waiting_count].channel, copy);
  }
}

void begin_ready(void) {
  inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (inotify < 0) return;
  if (inotify_add_watch(inotify, RUN_DIRECTORY, IN_MOVED_TO) < 0) return;
  watch(inotify, POLLIN, file_came, NULL);
}

void ask_ready(struct link *link, uint32_t channel) {
  char said[4096];
  if (read_file(SAID, said, sizeof said) >= 0) {
    answer(link, channel, said);
    return;
  }
  if (access(ANNOUNCED, F_OK) != 0) {
    struct buffer fields = {0};
    add_text(&fields, F_STATE, "untold");
    send_fields(link, DONE, channel, &fields);
    buffer_clear(&fields);
    return;
  }
  if (waiting_count == MAX_WAITING) {
    send_failure(link, channel, "too many wait for this guest to be ready");
    return;
  }
  waiting[waiting_count].link = link;
  waiting[waiting_count++].channel = channel;
}

void forget_ready(struct link *link) {
  for (int at = 0; at < waiting_count;)
    if (waiting[at].link == link) waiting[at] = waiting[--waiting_count];
    else at++;
}
