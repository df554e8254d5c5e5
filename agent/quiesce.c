/*
 * Stands the guest still before its memory is saved: writes what is to be written, then freezes every control group but init's
 * own, in which this program lives too. Who was frozen and is not thawed is thawed after a while without a word of the host,
 * unless the machine was restored meanwhile: then it is not before it was woken.
 */
#include "agent.h"
#include "cgroups.h"
#include "identity.h"
#include "sockets.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* what freezing may take: programs that wait for a disk are frozen when they are back from it */
#define FREEZE_MS 2000
#define LOOK_MS 5
/* time of this machine, which stands still while it is saved */
#ifndef THAW_AFTER_MS
#define THAW_AFTER_MS 30000
#endif
/* there where init is systemd, which has every process but itself in a group below the root's */
#ifndef SYSTEMD_RUNS
#define SYSTEMD_RUNS "/run/systemd/system"
#endif
#define MAX_GROUPS 64
#define MAX_NAMES 8
#define MAX_DEPTH 12

static enum { IDLE, SYNCING, FREEZING, FROZEN } state;
static struct link *asker;
static uint32_t asked_on;
static char *token;
static pid_t sync_child;
static int64_t deadline;
static struct timer timer;
static char *groups[MAX_GROUPS];
static int group_count;
static int restored;
/* nothing was missed, in a guest where every process is in a group */
static int all_frozen;

static void look(void);
static void left_alone(void) { thaw(NULL); }

const char *frozen_token(void) { return state == FROZEN ? token : NULL; }

int is_held(void) { return state != IDLE; }

int is_still(void) { return state == FROZEN && all_frozen; }

static void group_path(char *path, const char *group, const char *file) {
  snprintf(path, PATH_MAX, GROUPS "/%s/%s", group, file);
}

static void forget_groups(void) {
  while (group_count > 0) free(groups[--group_count]);
}

int thaw(const char *of) {
  if (state == IDLE) return 1;
  if (of && *of && token && strcmp(of, token) != 0) return 0;
  char path[PATH_MAX];
  for (int at = 0; at < group_count; at++) {
    group_path(path, groups[at], "cgroup.freeze");
    write_text(path, "0");
  }
  forget_groups();
  stop_timer(&timer);
  free(token);
  token = NULL;
  asker = NULL;
  restored = 0;
  state = IDLE;
  return 1;
}

/* A group that somebody else has frozen stays as it is. */
static int freeze_group(const char *name) {
  char path[PATH_MAX], text[16];
  if (strcmp(name, "init.scope") == 0 || group_count == MAX_GROUPS) return 0;
  group_path(path, name, "cgroup.freeze");
  if (read_file(path, text, sizeof text) < 1 || text[0] != '0' || write_text(path, "1") != 0) return 0;
  groups[group_count] = strdup(name);
  if (!groups[group_count]) die("memory");
  group_count++;
  return 1;
}

/* Whoever started it, this program is in no group that is frozen. */
static void step_aside(void) {
  char text[PATH_MAX];
  if (read_file("/proc/self/cgroup", text, sizeof text) < 0) return;
  if (strstr(text, "0::/\n") || strstr(text, "0::/init.scope\n")) return;
  write_text(GROUPS "/cgroup.procs", "0");
}

static void freeze(void) {
  step_aside();
  DIR *directory = has_groups() ? opendir(GROUPS) : NULL;
  if (!directory) return;
  for (struct dirent *entry; (entry = readdir(directory));)
    if (entry->d_name[0] != '.' && entry->d_type == DT_DIR) freeze_group(entry->d_name);
  closedir(directory);
}

static int is_frozen(const char *directory) {
  char path[PATH_MAX], text[256];
  if (snprintf(path, sizeof path, "%s/cgroup.events", directory) >= (int)sizeof path) return 1;
  return read_file(path, text, sizeof text) < 0 || strstr(text, "frozen 1") != NULL;
}

struct count {
  uint32_t frozen, missed;
  struct buffer *names;
};

static void name_missed(struct count *count, const char *pid) {
  char path[64], comm[64];
  if (count->missed > MAX_NAMES) return;
  snprintf(path, sizeof path, "/proc/%.12s/comm", pid);
  ssize_t length = read_file(path, comm, sizeof comm);
  if (length < 1) return;
  comm[length - 1] = 0;
  add_text(count->names, F_NAME, comm);
}

/* Counts the processes of a group and of those in it. */
static void count_group(const char *directory, int depth, struct count *count) {
  char path[PATH_MAX], line[64];
  int frozen = is_frozen(directory);
  if (snprintf(path, sizeof path, "%s/cgroup.procs", directory) >= (int)sizeof path) return;
  FILE *file = fopen(path, "re");
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    if (frozen) count->frozen++;
    else {
      count->missed++;
      name_missed(count, line);
    }
  }
  if (file) fclose(file);
  DIR *inside = depth < MAX_DEPTH ? opendir(directory) : NULL;
  if (!inside) return;
  for (struct dirent *entry; (entry = readdir(inside));) {
    if (entry->d_name[0] == '.' || entry->d_type != DT_DIR) continue;
    if (snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) < (int)sizeof path)
      count_group(path, depth + 1, count);
  }
  closedir(inside);
}

static void answer(void) {
  struct buffer fields = {0};
  struct count count = {.names = &fields};
  char path[PATH_MAX];
  add_text(&fields, F_STATE, group_count > 0 ? "frozen" : "synced");
  for (int at = 0; at < group_count; at++) {
    snprintf(path, sizeof path, GROUPS "/%s", groups[at]);
    count_group(path, 0, &count);
  }
  all_frozen = group_count > 0 && count.missed == 0 && access(SYSTEMD_RUNS, F_OK) == 0;
  if (all_frozen) note_ssh();
  add_number(&fields, F_COUNT, count.frozen);
  add_number(&fields, F_MISSED, count.missed);
  state = FROZEN;
  set_timer(&timer, THAW_AFTER_MS, left_alone);
  struct link *link = asker;
  asker = NULL;
  send_fields(link, DONE, asked_on, &fields);
  buffer_clear(&fields);
}

static void give_up(const char *why) {
  struct link *link = asker;
  thaw(NULL);
  if (link) send_failure(link, asked_on, "%s", why);
}

/* Called until all is frozen, or the time for it is over. */
static void look(void) {
  char path[PATH_MAX];
  if (state == SYNCING) {
    give_up("its disks did not take what was to be written in time");
    return;
  }
  for (int at = 0; at < group_count; at++) {
    snprintf(path, sizeof path, GROUPS "/%s", groups[at]);
    if (is_frozen(path)) continue;
    if (now_ms() >= deadline) break;
    set_timer(&timer, LOOK_MS, look);
    return;
  }
  answer();
}

int quiesce_child(pid_t pid, int status) {
  if (pid != sync_child || pid == 0) return 0;
  sync_child = 0;
  if (state != SYNCING) return 1;
  (void)status;
  state = FREEZING;
  if (deadline > now_ms() + FREEZE_MS) deadline = now_ms() + FREEZE_MS;
  freeze();
  look();
  return 1;
}

void quiesce(struct link *link, uint32_t channel, const char *of, uint32_t limit_ms) {
  if (state != IDLE) {
    send_failure(link, channel, state == FROZEN ? "it is frozen already" : "it is being frozen already");
    return;
  }
  if (sync_child != 0) {
    send_failure(link, channel, "its disks still write what an earlier request asked for");
    return;
  }
  load_diag_modules();
#ifndef FOR_TESTS /* which run on a machine whose boot id is not theirs */
  cover_boot_id();
#endif
  read_identity();
  /* a disk may take its time, and whoever asks must be answered meanwhile */
  pid_t child = fork();
  if (child < 0) {
    send_failure(link, channel, "no process could be started: %s", strerror(errno));
    return;
  }
  if (child == 0) {
    sync();
    _exit(0);
  }
  sync_child = child;
  asker = link;
  asked_on = channel;
  token = strdup(of);
  if (!token) die("memory");
  state = SYNCING;
  deadline = now_ms() + limit_ms;
  set_timer(&timer, limit_ms, look);
}

void heard_of_host(void) {
  if (state == FROZEN && !restored) set_timer(&timer, THAW_AFTER_MS, left_alone);
}

void forget_quiesce(struct link *link) {
  if (asker == link && link) thaw(NULL);
}

void was_restored(void) {
  if (state == IDLE) return;
  if (state != FROZEN) {
    thaw(NULL);
    return;
  }
  restored = 1;
  stop_timer(&timer);
}
